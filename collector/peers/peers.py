"""The collectors of a group: which traces are whose, and how a part reaches the one that assembles it."""

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from typing import Final

from google.protobuf.message import DecodeError, Message

from tailbudget.instrument.errors import UserError

from ..forward.address import Address
from ..journal.writer import JournalRefusedError
from ..receive.receiver import ROUTED
from .split import LEVELS, split

ANSWER_WITHIN_S: Final = 8.0
#: Parts that are on their way at once.
AT_ONCE: Final = 16


class Peers:
    """Shares bodies out among `members`, bases of OTLP/HTTP endpoints, one of which is `own`: this collector's.

    All collectors of a group have the same members. Raises UserError when `own` is not among them.
    """

    def __init__(self, members: tuple[str, ...], *, own: str, token: str | None = None) -> None:
        self._addresses: Mapping[str, Address] = {
            Address.parse(url).name: Address.parse(url) for url in sorted(set(members))
        }
        self._members = tuple(sorted(self._addresses))
        self._own = Address.parse(own).name if own else ""
        if self._members and self._own not in self._members:
            known = ", ".join(self._members)
            raise UserError(f"--self is {own!r}, which is none of the peers: expected one of {known}")
        self._headers = {"Content-Type": "application/x-protobuf", ROUTED: "1"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="peers")
        self._local = threading.local()

    def shares(self, signal: str) -> bool:
        """Return whether bodies of that signal are shared out."""
        return len(self._members) > 1 and signal in LEVELS

    def own_part(self, parts: Mapping[str, bytes]) -> bytes | None:
        """Return the part of this collector, None when it has none."""
        return parts.get(self._own)

    async def parts(self, body: bytes, request: type[Message], signal: str) -> dict[str, bytes]:
        """Return the body's part of each member; one that cannot be read stays whole, for the decoder to refuse."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._pool, lambda: split(body, request, signal, members=self._members, own=self._own)
            )
        except DecodeError:
            return {self._own: body}

    async def hand_over(self, parts: Mapping[str, bytes], path: str) -> list[bytes]:
        """Return the answers once every other member has its part on disk; raises JournalRefusedError when one has not.

        Whoever sent the body sends it again then: who has a part already knows it by its digest.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(
                loop.run_in_executor(self._pool, self._send, name, path, part)
                for name, part in parts.items()
                if name != self._own
            )
        )

    def close(self) -> None:
        """End the threads once what is on its way has been answered."""
        self._pool.shutdown()

    def _send(self, name: str, path: str, part: bytes) -> bytes:
        """Return what a member answers to its part, once it took it."""
        address = self._addresses[name]
        for again in (True, False):  # a connection that was kept may have been closed there meanwhile
            connection = self._connection(name)
            try:
                connection.request("POST", address.path + path, part, self._headers)
                answer = connection.getresponse()
                said = answer.read()
                break
            except (OSError, HTTPException) as error:
                connection.close()
                if not again:
                    raise JournalRefusedError(f"collector {name} of the group does not answer: {error}") from error
        if answer.status != 200:
            raise JournalRefusedError(f"collector {name} of the group refused with {answer.status}: {said[:500]!r}")
        return said

    def _connection(self, name: str) -> HTTPConnection:
        """Return this thread's connection to a member."""
        kept: dict[str, HTTPConnection] = self._local.__dict__.setdefault("kept", {})
        if name not in kept:
            kept[name] = self._addresses[name].connection(timeout_s=ANSWER_WITHIN_S)
        return kept[name]
