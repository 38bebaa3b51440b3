"""Counts spans, events, points and records on the wire: a parser turns the two bytes of an empty one into 170."""

from collections.abc import Iterator
from typing import Final

from ..journal.record import Signal

#: The numbers of the fields from a request down to its spans or log records; to its points through any kind of metric.
PATHS: Final[dict[Signal, tuple[frozenset[int], ...]]] = {
    "traces": (frozenset({1}), frozenset({2}), frozenset({2})),
    "metrics": (
        frozenset({1}),
        frozenset({2}),
        frozenset({2}),
        frozenset({5, 7, 9, 10, 11}),
        frozenset({1}),
    ),
    "logs": (frozenset({1}), frozenset({2}), frozenset({2})),
}
ITEMS: Final[dict[Signal, str]] = {"traces": "spans", "metrics": "points", "logs": "log records"}
#: From a span to its events and links, and how the tags of these begin: letters too, so that they prove nothing alone.
PARTS: Final = frozenset({11, 13})
TAGS: Final = (b"\x5a", b"\x6a")
LEAST_BYTES: Final = 2  # of an item: its tag and a length of 0
FIXED_BYTES: Final = {1: 8, 5: 4}
VARINT, BYTES = 0, 2


class TooManyItemsError(Exception):
    """A body with more spans, events, points or log records than it may have."""


def check_items(signal: Signal, body: bytes, *, most: int) -> None:
    """Return when the body has at most `most` spans, events and links, points or records. Raises TooManyItemsError.

    A body that is no protobuf is counted up to where it breaks: parsing it says what is wrong.
    """
    if len(body) <= LEAST_BYTES * most:
        return
    _count(body, PATHS[signal], ITEMS[signal], most)
    if signal == "traces" and sum(map(body.count, TAGS)) > most:  # 64 MiB in 30 ms; a walk takes seconds
        _count(body, (*PATHS[signal], PARTS), "events and links", most)


def _count(body: bytes, path: tuple[frozenset[int], ...], what: str, most: int) -> None:
    for number, _ in enumerate(_items(body, 0, len(body), path), start=1):
        if number > most:
            raise TooManyItemsError(
                f"more than {most} {what} in one body: send smaller batches, "
                "or let the collector take more with --max-items"
            )


def _items(body: bytes, at: int, end: int, path: tuple[frozenset[int], ...]) -> Iterator[None]:
    wanted, deeper = path[0], path[1:]
    try:
        while at < end:
            tag, at = _varint(body, at)
            wire = tag & 7
            if wire == BYTES:
                size, at = _varint(body, at)
                if tag >> 3 in wanted:
                    if deeper:
                        yield from _items(body, at, min(at + size, end), deeper)
                    else:
                        yield
                at += size
            elif wire == VARINT:
                at = _varint(body, at)[1]
            else:
                at += FIXED_BYTES.get(wire, 0)
    except IndexError:
        return


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at `at`, and where it ends. Raises IndexError at the end of the body."""
    byte = body[at]
    value, shift = byte & 127, 7
    at += 1
    while byte > 127:
        byte = body[at]
        value |= (byte & 127) << shift
        shift += 7
        at += 1
    return value, at
