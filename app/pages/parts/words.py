"""Figures and rows in words: durations with a unit, shares, whose fault a violation is."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa
import streamlit as st

from tailbudget.analytics.window import Box

#: Events below which a share is greyed: one more bad one would change it by over two percent.
SMALL_N = 50
#: Stands where there is no figure.
NOTHING = "—"
#: Durations from which the next larger unit reads better.
SECOND_MS = 1000.0
MINUTE_MS = 60_000.0


def duration(ms: float | None) -> str:
    """Return `4.2 ms`, `812 ms`, `4.21 s`, `2 min` or `2 min 5 s`; a dash for None."""
    if ms is None:
        return NOTHING
    if ms < SECOND_MS - 0.5:
        return f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"
    if ms < MINUTE_MS:
        return f"{ms / SECOND_MS:.2f}".rstrip("0").rstrip(".") + " s"
    minutes, seconds = divmod(round(ms / SECOND_MS), 60)
    return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"


def between(lo_ms: float, hi_ms: float) -> str:
    """Return `1 s to 2.5 s`, `over 4 s` where there is no upper end."""
    return f"over {duration(lo_ms)}" if hi_ms == float("inf") else f"{duration(lo_ms)} to {duration(hi_ms)}"


def box(of: Box) -> str:
    """Return `over 4 s, 12:03:05 CET to 12:08:00 CET`."""
    return f"{between(of.lo_ms, of.hi_ms)}, {clock(of.from_ts)} to {clock(of.to_ts)}"


def step(point: Mapping[str, Any], requests: pa.Table) -> tuple[str, datetime]:
    """Return what a table of `step_requests` shows, for a row of `queue_quadrant`, in Markdown, and of which moment."""
    if not requests.num_rows:
        return f"**In the step of {clock(point['t'])}** · no call is known", point["t"]
    first = requests.slice(0, 1).to_pylist()[0]
    load = f"{first['running'] or 0:.0f} run, {first['waiting'] or 0:.0f} wait"
    return f"**In the step of {clock(first['moment'])}** · {load} · n {requests.num_rows}", first["moment"]


def share(part: float, whole: float) -> str:
    """Return `97.3 %`, a dash when `whole` is 0; never 100 % while something is missing."""
    if not whole:
        return NOTHING
    percent = 100 * part / whole
    return f"{min(percent, 99.9) if part < whole else percent:.1f} %".replace("100.0", "100")


def one_in(traces: int) -> str:
    """Return ` · one trace in 16 looked at` to stand behind an n, nothing where all were."""
    return f" · one trace in {traces:,} looked at" if traces > 1 else ""


def count(n: int, noun: str) -> str:
    """Return `1 request`, `1,204 requests`."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def counted(n: int, noun: str = "") -> str:
    """Return `n 1,204`, `n 1,204 requests`; of few, `n 12 requests, too few to judge by`."""
    return f"n {count(n, noun) if noun else f'{n:,}'}" + ("" if n >= SMALL_N else ", too few to judge by")


def zone() -> tzinfo:
    """Return the viewer's zone as the browser told it; UTC where it is not known."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except ZoneInfoNotFoundError:  # a machine without its data
        return UTC


def clock(instant: datetime, *, now: datetime | None = None) -> str:
    """Return `12:03:05 CET` in the viewer's zone, `1 Mar 12:03:05 CET` of another day than today's."""
    seen = instant.astimezone(zone())
    today = (now or datetime.now(UTC)).astimezone(seen.tzinfo).date()
    return f"{seen:%H:%M:%S %Z}" if seen.date() == today else f"{seen.day} {seen:%b %H:%M:%S %Z}"


def as_of(instant: datetime | None) -> str:
    """Return ` · as of 12:03:05 CET` to stand behind what is older than it might be, nothing for None."""
    return f" · as of {clock(instant)}" if instant else ""


def utc(from_ts: datetime, to_ts: datetime | None = None) -> str:
    """Return `2026-03-01 12:03:05 UTC`, with a second one of the same day `2026-03-01 12:03:05 to 12:08:00 UTC`."""
    begin, end = (one.astimezone(UTC) for one in (from_ts, to_ts or from_ts))
    day = "" if begin.date() == end.date() else f"{end:%Y-%m-%d} "
    return f"{begin:%Y-%m-%d %H:%M:%S}{f' to {day}{end:%H:%M:%S}' if to_ts else ''} UTC"


def html_clock(instant: datetime) -> str:
    """Return the same as `clock` for HTML, with UTC on hover."""
    return (
        f'<time datetime="{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" title="{utc(instant)}">{clock(instant)}</time>'
    )


def plain(text: str) -> str:
    """Return `text` so that Streamlit's Markdown shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!$~:|<>])", r"\\\1", text)


def fault(row: Mapping[str, Any]) -> str:
    """Return whose fault a violation is, in one sentence, from a row of `violations`."""
    stage, over, budget = row["over_stage"], duration(row["over_ms"]), duration(row["budget_ms"])
    if stage and row["over_by"] != "baseline":
        took = duration((row["budget_ms"] or 0) + (row["over_ms"] or 0))
        return f"{stage} took {took}, {over} over its budget of {budget}"
    total = f"all of it took {duration(row['total_ms'])}, {over} over the budget of {budget}"
    return f"{total}; {stage} was furthest above its usual time" if stage else f"{total}; no stage stands out"
