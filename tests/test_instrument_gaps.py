"""Gaps between chunks: the summary equals its definition, in blocks or at once, and the bytes give the gaps back."""

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailbudget.instrument.gaps import (
    HISTOGRAM_BUCKETS,
    MAX_GAPS,
    READING_NS,
    STALL_FACTOR,
    STALL_MIN_NS,
    Gaps,
    decode_gaps,
)

gap_lists = st.lists(st.integers(0, 4_000_000_000), max_size=200)


def arrivals(gaps_ns: list[int], start_ns: int = 5) -> list[int]:
    times = [start_ns]
    for gap_ns in gaps_ns:
        times.append(times[-1] + gap_ns)
    return times


def in_blocks(times: list[int], size: int) -> Gaps:
    gaps = Gaps()
    for first in range(0, max(len(times) - 1, 1), size):
        gaps.feed(times[first : first + size + 1])
    return gaps


@settings(max_examples=200)
@given(gap_lists, st.integers(1, 50))
def test_the_summary_is_what_the_definition_says(gaps_ns: list[int], block: int) -> None:
    times = arrivals(gaps_ns)
    gaps = in_blocks(times, block)
    assert gaps.count == len(gaps_ns)
    assert gaps.max_ns == max(gaps_ns, default=0)
    assert gaps.stall_ns == max(at - j * READING_NS for j, at in enumerate(times)) - times[0]
    limit_ns = max(STALL_MIN_NS, STALL_FACTOR * statistics.median_low(gaps_ns)) if gaps_ns else 0
    assert gaps.stalls == sum(gap_ns > limit_ns for gap_ns in gaps_ns)


@settings(max_examples=50)
@given(gap_lists)
def test_the_bytes_give_the_gaps_back(gaps_ns: list[int]) -> None:
    gaps = Gaps()
    gaps.feed(arrivals(gaps_ns))
    assert decode_gaps(gaps.encode()) == ([gap_ns // 1000 for gap_ns in gaps_ns], [])


def test_a_long_stream_keeps_4096_gaps_and_counts_the_rest() -> None:
    gaps_ns = [1_000_000] * MAX_GAPS + [3_000, 0, 2_000_000_000]
    gaps = in_blocks(arrivals(gaps_ns), MAX_GAPS)
    kept_us, histogram = decode_gaps(gaps.encode())
    assert kept_us == [1_000] * MAX_GAPS
    assert len(histogram) == HISTOGRAM_BUCKETS
    assert {i: n for i, n in enumerate(histogram) if n} == {0: 1, 2: 1, 21: 1}
    assert gaps.count == MAX_GAPS + 3


def test_a_gap_beyond_32_bits_is_the_longest_that_fits() -> None:
    gaps = Gaps()
    gaps.feed(arrivals([2**32 * 1000 + 5]))
    assert decode_gaps(gaps.encode())[0] == [2**32 - 1]


@pytest.mark.parametrize("encoded", [b"", b"\x02", b"\x01\x00"])
def test_an_unknown_layout_is_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError, match=r"slo\.stream\.gaps"):
        decode_gaps(encoded)
