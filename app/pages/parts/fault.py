"""Whose fault violations are: what is left of each budget, who adds time, and the report of the stretch to send."""

import io
import tempfile
import zipfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from tailbudget.analytics import violations
from tailbudget.analytics.reader import ApiReader
from tailbudget.analytics.window import Window

from ... import incident
from . import charts, controls, series, tables, words
from .answers import KEPT_S, api, kept

#: Budgets drawn, the least left first.
MOST_BUDGETS: Final = 6
#: Requests of a report that is made in this process; the command makes larger ones.
MOST_REPORTED: Final = 100_000
#: Violations that are a spell: fewer are told by their number alone.
FEWEST: Final = 3
#: More milliseconds a request than nobody would look into.
LEAST_MS: Final = 1.0
#: Requests whose spans are compared while a person waits: 20,000 of 10 spans take about a second.
MOST: Final = 20_000


def budgets(found: pa.Table) -> None:
    """Draw the burn-down of each budget of an answer of `burn_down`; nothing without objectives."""
    drawn = list(series.split_by(found, "label"))[:MOST_BUDGETS]
    for place in range(0, len(drawn), 3):
        beside = drawn[place : place + 3]
        for column, one in zip(st.columns(3 if place else len(beside), gap="medium"), beside, strict=False):
            last = one.slice(one.num_rows - 1).to_pylist()[0]
            with column:
                title = f"**{words.plain(last['label'])}** · {_left(last)} · n {last['n']:,}"
                charts.draw("burn_down", one, title, key=last["label"], brush="time", on_brush=controls.drag)


def _left(last: Mapping[str, Any]) -> str:
    left = last["left_share"]
    if last["blind_since"] is not None:
        return f"▲ blind since {words.clock(last['blind_since'])}"
    if last["n"] < words.SMALL_N:
        return "too few to judge by"
    return f"{left:.0%} of the budget left" if left > 0 else f"▲ overspent by {-left:.0%}"


class Spell(NamedTuple):
    """A stretch of time in which one stage broke budgets, and how many."""

    from_ts: datetime
    to_ts: datetime
    n: int


def spell(timeline: pa.Table, stage: str) -> Spell | None:
    """Return the worst spell of `stage` in an answer of `violations_timeline`; None below FEWEST violations.

    It consists of whole buckets, and goes on over one without any.
    """
    found: list[Spell] = []
    for row in timeline.to_pylist():
        if row["stage"] == stage:
            if found and row["t"] - found[-1].to_ts <= row["t2"] - row["t"]:
                found[-1] = Spell(found[-1].from_ts, row["t2"], found[-1].n + row["n"])
            else:
                found.append(Spell(row["t"], row["t2"], row["n"]))
    worst = max(found, key=lambda one: one.n, default=None)
    return worst if worst and worst.n >= FEWEST else None


def suspects(*, n: int, window: Window | None = None) -> dict[str, str]:
    """Draw who adds time to the `n` requests of the range, and return the first suspect of each stage in words.

    With `window` who adds time to those of that one, which the title then names.
    """
    if n > MOST:
        st.info(f"{n:,} requests are too many to compare span by span ({MOST:,} at most): drag over a stretch of time.")
        return {}
    found = kept(violations.suspects, window or controls.window(rhythm_s=KEPT_S))
    found = found.filter(pc.greater_equal(found["more_ms"], LEAST_MS))
    rows = found.to_pylist()
    if not rows:
        st.caption("**Who adds time**: nobody, or no request came in the hour before, nor just before, to compare with")
        return {}
    first = rows[0]
    than = f"{words.clock(first['since'])} to {words.clock(first['until'])}"
    counts = f"n {first['n']:,} against {first['baseline_n']:,}"
    when = f" from {words.clock(window.from_ts)} to {words.clock(window.to_ts)}" if window else ""
    title, hover = (
        f"**Who adds time** a request{when}, more than from {than} · {counts}",
        words.utc(first["since"], first["until"]),
    )
    charts.tools(found, title, name="suspects", hover=hover)
    tables.suspects(found.slice(0, 5))
    return {row["stage"]: f"{row['operation']} of {row['service']}" for row in reversed(rows) if row["stage"]}


def named(shown: pa.Table, suspect: Mapping[str, str]) -> pa.Table:
    """Return rows of `violations` with the link to each trace, why it is one, and the suspect of its stage."""
    rows = shown.to_pylist()
    linked = tables.linked(shown).append_column("why", pa.array([words.fault(row) for row in rows], pa.string()))
    return linked.append_column("suspect", pa.array([suspect.get(row["over_stage"]) for row in rows], pa.string()))


def report(window: Window, *, n: int) -> None:
    """Draw what makes the incident report of the window, of `n` requests: a button, and the command for the same."""
    times = " ".join(
        f"--{name} {at:%Y-%m-%dT%H:%M:%SZ}" for name, at in (("from", window.from_ts), ("to", window.to_ts))
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.download_button(
            "Incident report",
            lambda: _zipped(window),
            f"incident-{window.from_ts:%Y-%m-%d-%H%M}.zip",
            "application/zip",
            on_click="ignore",
            disabled=n > MOST_REPORTED,
            help="A report, the rows that it rests on, and the SQL to ask them again.",
        )
        st.code(f"tailbudget incident {times} --out ./incident", language="bash", width="stretch")


def _zipped(window: Window) -> bytes:
    target = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        incident.write(ApiReader(api()), window, Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                packed.write(path, path.relative_to(folder))
    return target.getvalue()
