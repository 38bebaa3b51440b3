"""`tailbudget blame`: a ranking as JSON and as a table."""

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa

from tailbudget.analytics.blame import QUESTIONS, Blame, before
from tailbudget.analytics.window import Window
from tailbudget.instrument.errors import UserError

from .text import iso, to_text

#: What every entry of the ranking has; that of a segment has its value too.
KEYS: Final = ("rank", "service", "stage", "operation", "delta_ms", "p90_delta_ms")


def parse_instant(text: str) -> datetime:
    """Read an ISO 8601 instant, UTC without a zone, or unix seconds; raises UserError."""
    try:
        if text.replace(".", "", 1).isdigit() and "-" not in text:
            return datetime.fromtimestamp(float(text), UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise UserError(
            f"{text!r} is no instant: expected ISO 8601 as in 2026-03-01T12:00:00Z, or unix seconds"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def windows(
    start: str, end: str, baseline_start: str | None, baseline_end: str | None, *, baseline: str
) -> tuple[Window, Window]:
    """Return the window and its baseline, both as given or the latter an hour or a week before; raises UserError."""
    window = Window(parse_instant(start), parse_instant(end))
    if baseline_start is None and baseline_end is None:
        return window, before(window, baseline)
    if baseline_start is None or baseline_end is None:
        raise UserError("a baseline has two ends: give both --baseline-from and --baseline-to, or neither")
    return window, Window(parse_instant(baseline_start), parse_instant(baseline_end))


def to_json(found: Blame) -> str:
    """Return one JSON object: from, to, baseline_from, baseline_to, by, requests, baseline_requests, ranking."""
    keys = KEYS if found.by in QUESTIONS else (*KEYS, "value")
    return (
        json.dumps(
            {
                "from": iso(found.window.from_ts),
                "to": iso(found.window.to_ts),
                "baseline_from": iso(found.baseline.from_ts),
                "baseline_to": iso(found.baseline.to_ts),
                "by": found.by,
                "requests": found.requests,
                "baseline_requests": found.baseline_requests,
                "ranking": [{key: row[key] for key in keys} for row in map(dataclasses.asdict, found.ranking)],
            },
            indent=1,
        )
        + "\n"
    )


def report(found: Blame, *, rows: int = 20) -> str:
    """Return what people read: the first rows of the ranking, without columns that say nothing."""
    windows = f"{found.requests:,} requests against {found.baseline_requests:,} of the baseline"
    if not found.baseline_requests:
        windows += " (--baseline-from and --baseline-to name a time in which all was well)"
    if not found.ranking:
        return f"{windows}: nobody to blame\n"
    listed: list[dict[str, Any]] = [dataclasses.asdict(one) for one in found.ranking[:rows]]
    told = [name for name in listed[0] if any(row[name] is not None for row in listed)]
    return f"{windows}; ms that each adds to a request\n" + to_text(pa.Table.from_pylist(listed).select(told))
