"""The series of token rates, engines and GPUs, one at a time, with a heading that names each and its n."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tailbudget.analytics.sag import SagSettings

from .words import clock, duration, plain, share

#: Series shown on one page, the busiest first; more would be drawn too slowly to read live.
MOST = 6
#: Measures of engines and GPUs in the order of their page, and what they are called.
MEASURES: Final = {
    "running": "requests in the batch, mean",
    "waiting": "requests waiting, mean",
    "kv_used": "KV pages in use, most",
    "prefix_hits": "prompt tokens found in the prefix cache",
    "preemptions": "preemptions in each bucket",
    "joules_a_token": "joules a generated token",
    "tokens_per_s": "tokens generated a second",
    "gpu_tokens_per_s": "tokens generated a second, by GPU",
    "util": "GPU utilisation",
    "sm_mhz": "GPU clock, mean MHz",
    "power_w": "GPU power, W",
}
#: Those that are shares of a whole.
SHARES: Final = frozenset({"kv_used", "prefix_hits", "util"})
#: GPUs beside them, the most throttled first.
MOST_GPUS = 3


class Series(NamedTuple):
    """A heading in Markdown, and the rows of one series; `key` names it, `is_share` says that its values are shares."""

    heading: str
    rows: pa.Table
    key: str
    is_share: bool = False


def split_by(rows: pa.Table, column: str) -> Iterator[pa.Table]:
    """Yield the rows of each value of `column`."""
    for value in pc.unique(rows[column]).to_pylist():
        yield rows.filter(pc.equal(rows[column], value))


def split(rates: pa.Table) -> list[Series]:
    """Return the busiest series of an answer of `token_rate`: those in tokens first, then by stream-seconds."""
    parts = sorted(split_by(rates, "series"), key=_place)
    return [Series(_heading(part), part, str(part["series"][0])) for part in parts[:MOST]]


def gpus(clocks: pa.Table) -> list[Series]:
    """Return the GPUs of an answer of `gpu_clock` that were throttled most; the last heading says how many are left."""
    parts = list(split_by(clocks, "gpu"))
    left = f" · {len(parts) - MOST_GPUS} more GPUs were throttled no longer" if len(parts) > MOST_GPUS else ""
    found = [Series(_gpu_heading(part), part, str(part["gpu"][0])) for part in parts[:MOST_GPUS]]
    return [one._replace(heading=one.heading + left) if one is found[-1] else one for one in found]


def _gpu_heading(rows: pa.Table) -> str:
    throttled = [row for row in rows.to_pylist() if row["throttled"]]
    reasons = ", ".join(dict.fromkeys(reason for row in throttled for reason in str(row["reasons"]).split(", ")))
    state = (
        f"▼ throttled in {share(len(throttled), rows.num_rows)} of the time: {reasons}"
        if throttled
        else "never throttled"
    )
    return f"**GPU clock** · {plain(str(rows['gpu'][0]))} · {state} · n {sum(rows['n'].to_pylist()):,} samples"


def measures(found: pa.Table) -> list[Series]:
    """Return one series a measure and source of an answer of `engine_series`, in the order of MEASURES."""
    drawn = sorted(split_by(found, "measure"), key=lambda rows: list(MEASURES).index(rows["measure"][0].as_py()))
    return [_measure(one) for rows in drawn for one in split_by(rows, "source")]


def _measure(rows: pa.Table) -> Series:
    measure, source = str(rows["measure"][0]), str(rows["source"][0])
    n = sum(rows["n"].to_pylist())
    heading = f"**{MEASURES[measure]}** · {plain(source)} · n {n:,} samples"
    return Series(heading, rows, f"{measure}{source}", is_share=measure in SHARES)


def point(quadrant: pa.Table, picked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of `queue_quadrant` that was picked, else that with the longest wait."""
    rows: list[dict[str, Any]] = quadrant.to_pylist()
    return next((row for row in rows if row["id"] == picked.get("id")), max(rows, key=lambda row: row["wait_ms"]))


def points(quadrant: pa.Table) -> dict[int, str]:
    """Return the rows of `queue_quadrant` in words, by their id."""
    rows = quadrant.to_pylist()
    several = len({row["instance"] for row in rows}) > 1
    return {
        row["id"]: f"{clock(row['t'])} · wait {duration(row['wait_ms'])} · GPU {row['util']:.0%}"
        + (f" · {row['instance']}" if several else "")
        for row in rows
    }


def trouble(rows: pa.Table) -> str:
    """Return the share of each kind of trouble in words, or that there was none, from an answer of `stream_trouble`."""
    if not rows.num_rows:
        return "**Streams** · no streamed call began in this range"
    parts = {str(part["kind"][0]): part for part in split_by(rows, "kind")}
    counts = {kind: (sum(part["troubled"].to_pylist()), sum(part["n"].to_pylist())) for kind, part in parts.items()}
    told = ", ".join(f"{share(*count)} {kind}" for kind, count in counts.items())
    if not any(troubled for troubled, _ in counts.values()):
        told = "no stall and no slow reader in this range"
    return f"**Streams** · {told} · n {next(iter(counts.values()))[1]:,}"


def _place(rows: pa.Table) -> tuple[bool, float]:
    return rows["unit"][0].as_py() != "token", -sum(rows["active_stream_s"].to_pylist())


def _heading(rows: pa.Table) -> str:
    first = rows.slice(0, 1).to_pylist()[0]
    tokens, active_s = sum(rows["tokens"].to_pylist()), sum(rows["active_stream_s"].to_pylist())
    where = f"{first['provider'] or 'unknown provider'} at {first['instance'] or 'unknown address'}"
    return (
        f"**{plain(str(first['model'] or 'unknown model'))}** · {plain(where)}, seen by the {first['side']} · "
        f"**{tokens / active_s:.1f} {first['unit']}s** a second and stream · "
        f"n {tokens:,.0f} {first['unit']}s in {active_s:,.0f} stream-seconds"
    )


def detector(settings: SagSettings) -> str:
    """Return the detector's settings in one sentence."""
    return (
        f"Sag detector: buckets of {settings.bucket_stream_s:g} stream-seconds; the expected rate is from the "
        f"{settings.baseline_s:g} s that ended {settings.gap_s:g} s before, with {settings.min_buckets:g} buckets or "
        f"more; alarm when over {settings.window_s:g} s a token surely takes {settings.threshold:g} e-folds "
        f"({math.expm1(settings.threshold):.0%}) longer than that."
    )
