"""Takes a body of either port to the intake: unpacked, turned into protobuf, accepted, passed on, answered."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from google.protobuf.message import Message

from ..counters import Counters
from ..journal.record import Encoding
from ..unpack import gunzip
from .endpoints import Endpoint
from .intake import INLINE_BYTES, Accepted, Intake, Packed
from .otlp_json import to_protobuf
from .room import Hold, Room

Media = Literal["application/x-protobuf", "application/json"]
PROTOBUF: Final[Media] = "application/x-protobuf"
JSON: Final[Media] = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A body as it came."""

    endpoint: Endpoint
    data: bytes
    media: Media = PROTOBUF
    encoding: Encoding = "identity"
    routed: bool = False  # another collector of the group has shared it out


@dataclass(frozen=True, slots=True)
class Taken:
    """The response to a body that was taken, and whether it had been taken before."""

    answer: Message
    repeated: bool


#: Header of a body that was shared out already, whatever its taker thinks of whose it is.
ROUTED: Final = "tailbudget-routed"


class Group(Protocol):
    """The collectors among which traces are shared out; `collector/peers` says what each of these does."""

    def shares(self, signal: str) -> bool:
        """Return whether bodies of that signal are shared out."""
        ...

    def own_part(self, parts: Mapping[str, bytes]) -> bytes | None:
        """Return the part of this collector, None when it has none."""
        ...

    async def parts(self, body: bytes, request: type[Message], signal: str) -> dict[str, bytes]:
        """Return the body's part of each member."""
        ...

    async def hand_over(self, parts: Mapping[str, bytes], path: str) -> list[bytes]:
        """Return the answers once every other member has its part on disk; raises JournalRefusedError otherwise."""
        ...


#: Told of every body that was accepted for the first time, after its acknowledgement is sure; must not wait.
PassOn = Callable[[Received], None]


class Receiver:
    """Used on one event loop."""

    def __init__(
        self,
        intake: Intake,
        *,
        counters: Counters,
        room: Room,
        max_body_bytes: int,
        pass_on: PassOn,
        peers: Group | None = None,
    ) -> None:
        self._intake = intake
        self._counters = counters
        self._pass_on = pass_on
        self._peers = peers
        self.room: Final = room
        self.max_body_bytes: Final = max_body_bytes

    async def take(self, received: Received, hold: Hold) -> Taken:
        """Return the response once the body is on disk; `hold` has the bytes of `received.data`.

        Raises what `refusal.FAULTS` names.
        """
        endpoint = received.endpoint
        self._counters.received.labels(endpoint.signal).inc(len(received.data))
        with self.room.enter():
            body, packed = await self._unpacked(received, hold)
            accepted = await self._accepted(received, body, packed)
        if not accepted.repeated and not received.routed:
            self._pass_on(received)
        return Taken(endpoint.answer(rejected=accepted.rejected), accepted.repeated)

    async def _accepted(self, received: Received, body: bytes, packed: Packed) -> Accepted:
        """Return what became of the body once all of it is on disk: here, or where its traces are assembled."""
        endpoint = received.endpoint
        if received.routed or self._peers is None or not self._peers.shares(endpoint.signal):
            return await self._intake.accept(endpoint.signal, body, packed)
        parts = await self._peers.parts(body, endpoint.request, endpoint.signal)
        own = self._peers.own_part(parts)
        if own is not None and len(parts) == 1:
            return await self._intake.accept(endpoint.signal, body, packed)
        handed = asyncio.create_task(self._peers.hand_over(parts, endpoint.path))
        try:
            accepted = Accepted(0, repeated=False)
            if own is not None:
                accepted = await self._intake.accept(endpoint.signal, own, Packed(own, "identity"))
        finally:
            answers = await handed
        rejected = accepted.rejected + sum(map(endpoint.rejected_in, answers))
        return Accepted(rejected, repeated=accepted.repeated)

    async def _unpacked(self, received: Received, hold: Hold) -> tuple[bytes, Packed]:
        """Return the protobuf body, and how it goes to the journal."""
        data = received.data
        body = data
        if received.encoding == "gzip":
            body = await self._aside(lambda: gunzip(data, limit=self.max_body_bytes), nbytes=len(data))
            hold.take(len(body))
        if received.media == PROTOBUF:
            return body, Packed(data, received.encoding)
        text = body
        body = await self._aside(lambda: to_protobuf(text, received.endpoint.request), nbytes=len(text))
        hold.take(len(body))
        return body, Packed(body, "identity")

    async def _aside(self, work: Callable[[], bytes], *, nbytes: int) -> bytes:
        """Do the work, for large bodies in a thread, so that the loop answers others meanwhile."""
        return work() if nbytes <= INLINE_BYTES else await self._intake.in_thread(work)
