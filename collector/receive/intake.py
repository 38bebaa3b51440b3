"""Takes an unpacked body to the journal: known repeats are skipped, the rest is decoded, written, then acknowledged."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, TypeVar

import numpy as np

from tailbudget.instrument.vocabulary import convert

from ..counters import Counters
from ..journal.record import Encoding, Record, Signal
from ..journal.writer import Journal, JournalRefusedError, Position
from ..land.lander import Lander
from ..land.portion import Entry
from ..land.seen import Keys, RecentKeys
from .batches import Batches, content_dropped
from .census import check_items
from .decode import BadBodyError
from .decoder import decode_body, decoder_of
from .privacy import Content

log: Final = logging.getLogger(__name__)
T = TypeVar("T")

#: Larger bodies (512 spans are 100-250 kB) are decoded in a thread, so that the loop answers others meanwhile; measured
#: against decoding all on the loop: the same spans a second, p99 of acknowledgements in overload 1.2 s, not 1.3-1.8 s.
INLINE_BYTES: Final = 64 * 1024
#: The extension decodes so much in 1.3 ms. To hand 250 kB to a thread and back cost a tenth of the whole chain,
#: and p99 of acknowledgements in overload was 0.65 s, not 0.42 s.
NATIVE_INLINE_BYTES: Final = 1024 * 1024
#: How long a sender waits for room, well below the 10 s after which exporters give up.
ROOM_WAIT_S: Final = 2.0
ROOM_POLL_S: Final = 0.02
#: A repeated body is known for a day, or until 4 M others came.
DIGESTS_KEPT_S: Final = 86_400.0
DIGESTS_KEPT: Final = 4_000_000
DIGEST_BYTES: Final = 16
#: The bytes of one body may mean something else as another signal.
PERSONS: Final[dict[Signal, bytes]] = {"traces": b"", "metrics": b"metrics", "logs": b"logs"}


def decode(signal: Signal, body: bytes, *, content: Content) -> Batches:
    """Return the batches of a body of that signal. Raises BadBodyError, also for what the decoder does not expect.

    A body that cannot be decoded now never can: a sender that was told to try again would do so for ever.
    """
    try:
        return decode_body(signal, body, content=content)
    except (BadBodyError, MemoryError):
        raise
    except Exception as error:
        log.exception("a body of %s cannot be decoded", signal)
        raise BadBodyError(f"the {signal} cannot be decoded ({type(error).__name__}: {error})") from error


@dataclass(frozen=True, slots=True)
class Packed:
    """A body as it came: to be journaled as it is when it has no content to take out."""

    data: bytes
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a body: spans, points or records that were rejected, and whether it had been accepted before."""

    rejected: int
    repeated: bool


class Intake:
    """Accepts bodies; used on one event loop. `known` are the keys of bodies that were acknowledged before."""

    def __init__(
        self, *, journal: Journal, lander: Lander, counters: Counters, content: Content, max_spans: int, known: Keys
    ) -> None:
        self._journal = journal
        self._lander = lander
        self._counters = counters
        self._content = content
        self._max_spans = max_spans
        self._known = RecentKeys(keep_s=DIGESTS_KEPT_S, limit=DIGESTS_KEPT)
        self._known.add(known)
        self._inline_bytes = NATIVE_INLINE_BYTES if decoder_of(content) == "native" else INLINE_BYTES
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="decode")
        #: By digest, who waits for the body: its sender and those of equal ones. Each has a future of its own, so that
        #: one who leaves takes nobody along.
        self._on_the_way: dict[bytes, list[asyncio.Future[None]]] = {}
        self._settled: deque[tuple[bytes, JournalRefusedError | None]] = deque()
        self._told = False  # that there are some

    async def accept(self, signal: Signal, body: bytes, packed: Packed) -> Accepted:
        """Return what was rejected, once the rest is on disk.

        A body that was accepted before is not stored again. Raises BadBodyError, TooManyItemsError and
        JournalRefusedError.
        """
        if fault := self._lander.fault or self._journal.fault:
            raise JournalRefusedError(fault)
        digest = blake2b(body, digest_size=DIGEST_BYTES, person=PERSONS[signal]).digest()
        key = key_of(digest)
        if key in self._known:
            return await self._repeated(signal, body)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if (others := self._on_the_way.get(digest)) is not None:
            others.append(stored)
            await stored
            return await self._repeated(signal, body)
        self._on_the_way[digest] = [stored]
        try:
            await self._wait_for_room()
            batches = await self._decode(signal, body)
        except BaseException:
            self._settle(digest, JournalRefusedError("an equal body could not be taken"))
            raise
        self._write(signal, digest, packed, batches)
        await stored
        return Accepted(batches.rejected, repeated=False)

    async def _repeated(self, signal: Signal, body: bytes) -> Accepted:
        """Return what a repeat is told: the same as its first, which may have come before the last start."""
        self._counters.dropped(signal, "repeated_body")
        return Accepted((await self._decode(signal, body)).rejected, repeated=True)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, done in the thread that decodes, one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _wait_for_room(self) -> None:
        """Slow senders down to the rate of landing: beyond it each body would be decoded twice."""
        give_up_s = time.monotonic() + ROOM_WAIT_S
        while self._lander.full and time.monotonic() < give_up_s:  # noqa: ASYNC110 - a thread makes room
            await asyncio.sleep(ROOM_POLL_S)

    def close(self) -> None:
        """End the decoding thread."""
        self._pool.shutdown()

    async def _decode(self, signal: Signal, body: bytes) -> Batches:
        if len(body) <= self._inline_bytes:
            return self._checked(signal, body)
        return await self.in_thread(lambda: self._checked(signal, body))

    def _checked(self, signal: Signal, body: bytes) -> Batches:
        check_items(signal, body, most=self._max_spans)
        return decode(signal, body, content=self._content)

    def _write(self, signal: Signal, digest: bytes, packed: Packed, batches: Batches) -> None:
        arrived_ns = time.time_ns()
        loop = asyncio.get_running_loop()
        scrubbed = batches.scrubbed
        record = Record(
            signal=signal,
            encoding=packed.encoding if scrubbed is None else "identity",
            digest=digest,
            arrived_ns=arrived_ns,
            content_dropped=content_dropped(batches),
            payload=packed.data if scrubbed is None else scrubbed,
        )

        def written(start: Position, end: Position) -> None:
            arrived_s = convert(arrived_ns, "ns", "s")
            self._lander.put(Entry(start=start, end=end, digest=digest, arrived_s=arrived_s, batches=batches))
            self._tell(loop, digest, None)

        self._journal.append(record, written=written, refused=lambda error: self._tell(loop, digest, error))

    def _tell(self, loop: asyncio.AbstractEventLoop, digest: bytes, error: JournalRefusedError | None) -> None:
        """Let the loop settle a body, from the journal's thread; it is woken up once for those that come together."""
        self._settled.append((digest, error))
        if not self._told:
            self._told = True
            loop.call_soon_threadsafe(self._settle_all)

    def _settle_all(self) -> None:
        self._told = False  # first: what is appended from here on wakes the loop up again
        while self._settled:
            self._settle(*self._settled.popleft())

    def _settle(self, digest: bytes, error: JournalRefusedError | None) -> None:
        if error is None:
            _end(self._on_the_way[digest], None)
            asyncio.get_running_loop().call_soon(self._remember, digest)  # behind the answers, which need not wait
        else:
            _end(self._on_the_way.pop(digest), error)

    def _remember(self, digest: bytes) -> None:
        self._known.add(np.array([key_of(digest)], np.uint64))
        _end(self._on_the_way.pop(digest), None)  # equal bodies that came meanwhile


def _end(waiting: list[asyncio.Future[None]], error: JournalRefusedError | None) -> None:
    """Tell those who wait, and have not left, what became of their body."""
    for one in waiting:
        if one.done():
            continue
        if error is None:
            one.set_result(None)
        else:
            one.set_exception(error)
            one.exception()  # its sender may be gone: no warning then


def key_of(digest: bytes) -> int:
    """Return the 64 bits by which a body is remembered."""
    return int.from_bytes(digest[:8], "big")
