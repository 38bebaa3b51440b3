"""Gaps between the token-bearing chunks of a stream: the longest, the stalls, and the bytes in which they travel."""

import statistics
import sys
from array import array
from dataclasses import dataclass, field, replace
from functools import partial

from .clocks import in_us, reckon

#: First byte of the encoding: this layout. Then little-endian u32 microseconds, at most MAX_GAPS of them; if there
#: were more gaps, HISTOGRAM_BUCKETS u32 counts follow, bucket i counting those from 2^(i-1) up to 2^i microseconds.
GAPS_VERSION = 1
MAX_GAPS = 4096
HISTOGRAM_BUCKETS = 33
NO_COUNTS = (0,) * HISTOGRAM_BUCKETS
_U32_MAX = 2**32 - 1

#: Time in which a person reads a token: 240 words a minute, MLPerf's 200 ms limit for a chat that is read.
READING_NS = 200_000_000
#: A gap is a stall when it is longer than both: a second, and eight times what is usual in this stream.
STALL_MIN_NS = 1_000_000_000
STALL_FACTOR = 8


@dataclass(slots=True)
class Gaps:
    """Summary of a stream's arrivals, fed in blocks so that an endless stream needs bounded memory. All in ns."""

    count: int = 0
    max_ns: int = 0
    stall_ns: int = 0
    _kept: "array[int]" = field(default_factory=partial(array, "q"))
    _histogram: tuple[int, ...] = NO_COUNTS
    _lag_ns: int = 0

    def feed(self, arrivals: list[int]) -> None:
        """Add the gaps between these arrivals; the first one is the last of the block before."""
        encoded, longest_ns, worst_ns, self._lag_ns = reckon(arrivals, self._lag_ns, READING_NS)
        # The reader waits when the text that came lies behind the reading pace: max_j(a_j - j * tau) - a_0.
        self.stall_ns = max(self.stall_ns, worst_ns)
        self.max_ns = max(self.max_ns, longest_ns)
        self._kept.frombytes(encoded)
        self.count += max(len(arrivals) - 1, 0)
        if len(self._kept) > MAX_GAPS:  # as few are
            counts = list(self._histogram)
            for gap_ns in self._kept[MAX_GAPS:]:
                counts[min((gap_ns // 1000).bit_length(), HISTOGRAM_BUCKETS - 1)] += 1
            self._histogram = tuple(counts)
            del self._kept[MAX_GAPS:]

    def until(self, now_ns: int, arrivals: list[int]) -> "Gaps":
        """Return a copy with the gaps between these arrivals and the silence since the last one, which goes on."""
        longer = replace(self, _kept=self._kept[:])
        longer.feed([*arrivals, max(now_ns, arrivals[-1])])
        return longer

    @property
    def usual_ns(self) -> int:
        """Median of the first MAX_GAPS gaps, 0 without any."""
        return statistics.median_low(self._kept) if self._kept else 0

    @property
    def stall_limit_ns(self) -> int:
        """What a gap must exceed to be a stall."""
        return max(STALL_MIN_NS, STALL_FACTOR * self.usual_ns)

    @property
    def stalls(self) -> int:
        """Gaps longer than a second and than eight times the median of the first MAX_GAPS gaps."""
        if self.max_ns <= STALL_MIN_NS:
            return 0
        limit_ns = self.stall_limit_ns
        long_tail = sum(self._histogram[(limit_ns // 1000).bit_length() + 1 :])
        return sum(gap_ns > limit_ns for gap_ns in self._kept) + long_tail

    def encode(self) -> bytes:
        """Return the gaps as bytes in the layout described at GAPS_VERSION."""
        layout, gaps_us = bytes((GAPS_VERSION,)), in_us(self._kept)
        if self.count <= len(self._kept):
            return layout + gaps_us
        counts = array("I", (min(n, _U32_MAX) for n in self._histogram))
        if sys.byteorder == "big":
            counts.byteswap()
        return layout + gaps_us + counts.tobytes()


def decode_gaps(encoded: bytes) -> tuple[list[int], list[int]]:
    """Return the gaps in microseconds and the histogram of the rest (empty when there is none).

    Raises ValueError for bytes of another layout.
    """
    if not encoded or encoded[0] != GAPS_VERSION or len(encoded) % 4 != 1:
        raise ValueError(f"unknown layout of slo.stream.gaps: expected version {GAPS_VERSION} and u32 words after it")
    words = array("I", encoded[1:])
    if sys.byteorder == "big":
        words.byteswap()
    return words[:MAX_GAPS].tolist(), words[MAX_GAPS:].tolist()
