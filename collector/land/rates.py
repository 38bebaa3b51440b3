"""Decode counters to bins of 10 s: how many tokens came, over how many stream-seconds."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from tailbudget.instrument.vocabulary import (
    DECODE_ACTIVE_STREAM_TIME,
    DECODE_CHUNKS,
    DECODE_STREAMS,
    DECODE_TOKENS,
    convert,
)

from ..receive.values import column_text

BIN_S: Final = 10
BIN_NS: Final = round(convert(BIN_S, "s", "ns"))
#: A longer interval tells nothing of a rate; its value goes into the last hour of it.
MAX_INTERVAL_NS: Final = round(convert(3600, "s", "ns"))
NAMES: Final = (DECODE_TOKENS, DECODE_CHUNKS, DECODE_ACTIVE_STREAM_TIME, DECODE_STREAMS)
#: What `tokens` counts: a client learns of tokens only when a call ends, so it counts chunks.
UNITS: Final = {"server": "token", "client": "chunk"}
#: (side, metric) -> the field of a bin that it fills.
FIELDS: Final = {
    ("server", DECODE_TOKENS): "tokens",
    ("client", DECODE_CHUNKS): "tokens",
    **{(side, DECODE_ACTIVE_STREAM_TIME): "active_stream_s" for side in UNITS},
    **{(side, DECODE_STREAMS): "streams" for side in UNITS},
}

BINS: Final = pa.schema(
    [
        ("t_s", pa.int64()),  # unix seconds of the bin's start
        ("series", pa.string()),
        ("model", pa.string()),
        ("provider", pa.string()),
        ("instance", pa.string()),
        ("side", pa.string()),
        ("unit", pa.string()),
        ("tokens", pa.float64()),
        ("active_stream_s", pa.float64()),
        ("streams", pa.float64()),
    ]
)

#: A row of METRICS as a mapping, with `instance` of its resource.
Point = Mapping[str, Any]
#: (model, provider, instance, side)
Series = tuple[str | None, str | None, str | None, str]
#: (metric, resource, attributes) of one counter
Counter = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Last:
    """The point of a cumulative counter that was counted last."""

    t_ns: int
    value: float


@dataclass(slots=True)
class Bin:
    """One row of `decode_rate`, without its key."""

    tokens: float = 0.0
    active_stream_s: float = 0.0
    streams: float | None = None


class DecodeRates:
    """Turns points into bins and remembers cumulative counters.

    `stored(counter)` finds the last landed point of a counter that this process has not seen, so that a restart
    counts nothing twice.
    """

    def __init__(self, stored: Callable[[Counter], Last | None] = lambda _: None) -> None:
        self._stored = stored
        self._last: dict[Counter, Last] = {}
        self._pending: dict[Counter, Last] = {}

    def bins(self, points: Iterable[Point]) -> pa.Table:
        """Return the bins that the points add to; `keep` makes them count once the bins have landed."""
        self._pending = {}
        found: dict[tuple[Series, int], Bin] = {}
        for point in sorted(points, key=lambda point: int(point["t_ns"])):
            attrs = json.loads(point["attrs"])
            side = str(attrs.get("side"))
            field = FIELDS.get((side, point["name"]))
            if field is None or point["value"] is None:
                continue
            model, provider, address = (column_text(attrs.get(key)) for key in ("model", "provider", "server.address"))
            series = (model, provider, address or point["instance"], side)
            if field == "streams":
                target = found.setdefault((series, _bin(point["t_ns"] - 1)), Bin())
                target.streams = max(target.streams or 0.0, point["value"])
                continue
            for start, part in _parts(*self._increment(point)):
                target = found.setdefault((series, start), Bin())
                setattr(target, field, getattr(target, field) + part)
        return _table(found)

    def keep(self) -> None:
        """Remember the counters of the last `bins`."""
        self._last |= self._pending
        self._pending = {}

    def _increment(self, point: Point) -> tuple[int, int, float]:
        """Return (start_ns, end_ns, how much) that this point tells of."""
        start_ns, t_ns, value = point["start_ns"] or point["t_ns"], point["t_ns"], point["value"]
        if point["temporality"] != "cumulative":
            return start_ns, t_ns, value
        counter = (point["name"], point["resource_id"], point["attrs"])
        last = self._pending.get(counter) or self._last.get(counter) or self._stored(counter)
        if last is not None and t_ns <= last.t_ns:
            return t_ns, t_ns, 0.0  # told already
        self._pending[counter] = Last(t_ns, value)
        if last is None or start_ns >= last.t_ns or value < last.value:
            return start_ns, t_ns, value  # first of its kind, or counting started anew
        return last.t_ns, t_ns, value - last.value


def _bin(t_ns: int) -> int:
    return int(t_ns // BIN_NS * BIN_S)


def _parts(start_ns: int, end_ns: int, value: float) -> Iterator[tuple[int, float]]:
    """Split a value over the bins that its interval overlaps, by overlap."""
    if value <= 0:
        return
    if end_ns <= start_ns:
        yield _bin(end_ns), value
        return
    start_ns = max(start_ns, end_ns - MAX_INTERVAL_NS)
    for start_s in range(_bin(start_ns), _bin(end_ns - 1) + BIN_S, BIN_S):
        bin_ns = start_s // BIN_S * BIN_NS
        overlap_ns = min(end_ns, bin_ns + BIN_NS) - max(start_ns, bin_ns)
        yield start_s, value * overlap_ns / (end_ns - start_ns)


def _table(found: Mapping[tuple[Series, int], Bin]) -> pa.Table:
    rows = [
        {
            "t_s": t_s,
            "series": "|".join([*(part or "" for part in series), UNITS[series[-1]]]),
            "model": series[0],
            "provider": series[1],
            "instance": series[2],
            "side": series[3],
            "unit": UNITS[series[3]],
            "tokens": found_bin.tokens,
            "active_stream_s": found_bin.active_stream_s,
            "streams": found_bin.streams,
        }
        for (series, t_s), found_bin in found.items()
        if found_bin.tokens > 0 or found_bin.active_stream_s > 0
    ]
    return pa.Table.from_pylist(rows, schema=BINS)
