"""What a chunk of a stream and a part of an answer leave behind: in C where a compiler was, else in Python.

`csrc/` holds the same types, and loops that do without a frame of Python a chunk; TAILBUDGET_STREAMS=python leaves
them. All clocks are `perf_counter_ns`.
"""

import os
import sys
from array import array
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import accumulate
from operator import sub
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

#: The types that this version takes.
LAYOUT: Final = 2


class PurePythonClocks:
    """When chunks came and when they had been asked for.

    Of chunks with a token at most `most` are kept; a further one calls `_fold`, which a subclass has and which drains.
    A text with any of `marks` may end a sentence, and `most_early` texts are an answer: the loops in C have to know.
    """

    __slots__ = (
        "_most", "arrivals", "asked_ns", "asks", "early", "last_chunk", "plain", "seen_ns", "text", "text_chunks"
    )  # fmt: skip

    def __init__(self, most: int, marks: str, most_early: int) -> None:  # noqa: ARG002
        self._most = most
        #: When the caller asked for the next chunk.
        self.asked_ns = 0
        #: A chat chunk that has text is kept without `see`.
        self.plain = False
        #: So is one before the answer is usable, where its text cannot make it so.
        self.early = False
        self.last_chunk: Any = None
        #: When the last chunk came that `see` or the early path took, 0 before it.
        self.seen_ns = 0
        #: What has come before the answer is usable, and in how many chunks.
        self.text: Any = None
        self.text_chunks = 0
        #: When each chunk with a token came, and when the caller had asked for it.
        self.arrivals: list[int] = []
        self.asks: list[int] = []

    @property
    def kept(self) -> int:
        """How many arrivals are kept."""
        return len(self.arrivals)

    @property
    def last_kept_ns(self) -> int:
        """The last arrival, 0 before the first."""
        return self.arrivals[-1] if self.arrivals else 0

    def keep(self, chunk: Any, arrived_ns: int) -> None:
        """Take a chunk that has a token."""
        self.arrivals.append(arrived_ns)
        self.asks.append(self.asked_ns)
        self.last_chunk = chunk
        if len(self.arrivals) > self._most:
            self._fold()

    def _fold(self) -> None:
        raise NotImplementedError

    def drain(self) -> tuple[list[int], int]:
        """Return the arrivals and how long the caller sat on their chunks; of all this the last arrival is kept.

        The time is that of asking less that of coming, summed, which is right once both have a next: of each chunk that
        came the next one was asked for.
        """
        arrivals, asks = self.arrivals.copy(), self.asks
        consumer_ns = sum(asks) - sum(arrivals[-len(asks) :]) if asks else 0
        asks.clear()
        del self.arrivals[:-1]
        return arrivals, consumer_ns


class PurePythonParts:
    """The way of an answer's parts to an ASGI server; a subclass's `_send_and_look` judges all but the usual ones."""

    _send: Callable[[Any], Awaitable[None]]
    _clock: Callable[[], int]
    #: The client is there and has the first byte.
    _flows: bool
    _send_tells_nothing: bool
    _last_byte_ns: int | None

    def send(self, message: MutableMapping[str, Any]) -> Awaitable[None]:
        """Send a part of the answer and stamp its first and last byte."""
        try:
            # Most parts of a stream: a coroutine around each would cost twice as much as all the rest here.
            if not (self._flows and message["more_body"] and message["body"] and self._send_tells_nothing):
                return self._send_and_look(message)
        except KeyError:
            return self._send_and_look(message)
        self._last_byte_ns = self._clock()
        return self._send(message)

    async def _send_and_look(self, message: MutableMapping[str, Any]) -> None:
        raise NotImplementedError


def pure_python_reckon(arrivals: list[int], lag_ns: int, pace_ns: int) -> tuple[bytes, int, int, int]:
    """Return the gaps between these arrivals as an array of int64, the longest, and how a reader at that pace lags.

    Who reads a chunk in `pace_ns`, and was `lag_ns` ahead (negative) or behind, was at worst so far behind, and is now.
    """
    gaps = array("q", map(sub, arrivals[1:], arrivals))
    lags = list(accumulate((gap_ns - pace_ns for gap_ns in gaps), initial=lag_ns))
    return gaps.tobytes(), max(gaps, default=0), max(lags), lags[-1]


def pure_python_in_us(gaps: "array[int]") -> bytes:
    """Return little-endian u32 microseconds of an array of int64 nanoseconds, the largest for what is more."""
    words = array("I", (min(gap_ns // 1000, 2**32 - 1) for gap_ns in gaps))
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def _extension() -> ModuleType | None:
    if os.environ.get("TAILBUDGET_STREAMS", "native") == "python":
        return None
    try:
        from . import _clocks  # type: ignore[attr-defined]

        if _clocks.LAYOUT != LAYOUT:
            raise ImportError("the extension _clocks was built from other sources: build it anew (make venv)")
    except ImportError:
        if os.environ.get("TAILBUDGET_REQUIRE_NATIVE") == "1":
            raise
        return None
    return _clocks  # type: ignore[no-any-return]


NATIVE: Final = _extension()
if TYPE_CHECKING:
    Clocks = PurePythonClocks
    Parts = PurePythonParts
    reckon = pure_python_reckon
    in_us = pure_python_in_us
else:
    Clocks = NATIVE.Clocks if NATIVE else PurePythonClocks
    Parts = NATIVE.Parts if NATIVE else PurePythonParts
    reckon = NATIVE.reckon if NATIVE else pure_python_reckon
    in_us = NATIVE.in_us if NATIVE else pure_python_in_us
