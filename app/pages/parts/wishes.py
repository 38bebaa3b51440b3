"""The what-if of the Stages page: which stages, at how many milliseconds, and what the total would have been."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import pyarrow as pa
import streamlit as st

from tailbudget.analytics import overview, whatif
from tailbudget.analytics.window import Window

from . import cards, charts, controls
from .answers import KEPT_S, answer, table
from .words import SMALL_N, counted, duration

#: Requests that are gone through one by one while a person waits: 20,000 take about 2 s.
MOST: Final = 20_000


def show(window: Window, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw a slider for each stage chosen of `stages` (rows of `stage_waterfall`), and the percentiles with them."""
    longest = max(stages, key=lambda stage: stages[stage]["over_ms"] or stages[stage]["ms"] / 1e6)
    chosen = st.multiselect(
        "What if these stages took at most ...", list(stages), default=[longest], key="what_if", bind="query-params",
        max_selections=whatif.MOST_STAGES,
    )  # fmt: skip
    budgets_ms = {stage: _slider(stage, stages[stage]) for stage in chosen}
    n = answer(overview.latency_summary, window)["n"][0].as_py()
    if n > MOST:
        st.info(f"{n:,} requests are too many to go through one by one ({MOST:,} at most): choose a shorter range.")
        return
    found = answer(whatif.within, window, budgets_ms=budgets_ms) if budgets_ms else None
    if found is not None:
        few = found.n < SMALL_N
        cards.show([_card(name, *getattr(found, f"{name}_ms"), few=few) for name in ("p50", "p95", "p99")])
        wished = " and ".join(f"{stage} at {duration(ms)}" for stage, ms in budgets_ms.items())
        st.caption(
            f"With {wished} or less, {found.changed:,} of {counted(found.n, 'request')} would have been faster; what "
            "ran beside it under the same parent is not outrun."
        )
    _all(stages)


def _slider(stage: str, row: Mapping[str, Any]) -> float:
    key = f"at_most_{stage}"
    # A wish of before stays what it was: since then the stage may have become faster than it.
    most_ms = max(10, round(row["ms"]), _whole(st.session_state.get(key)), _whole(st.query_params.get(key)))
    # Of a stage within its budget, that budget would change nothing.
    budget_ms = round(row["budget_ms"] if row["over_ms"] else row["ms"] / 2)
    label = f"{stage}, ms (it takes {duration(row['ms'])} around p95)"
    return float(st.slider(label, 0, most_ms, budget_ms, key=key, bind="query-params"))


def _whole(said: object) -> int:
    text = str(said)
    return int(text) if text.isdecimal() and len(text) < 8 else 0


def _all(stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw what each stage with a budget would save of p95, all of them in theirs, the most over first."""
    held = sorted((row for row in stages.values() if row["budget_ms"]), key=lambda row: -row["over_ms"])
    budgets_ms = {row["stage"]: float(row["budget_ms"]) for row in held[: whatif.MOST_STAGES]}
    if not budgets_ms:
        return
    found = table(
        partial(_savings, budgets_ms=budgets_ms),
        whatif.shares,
        controls.window(rhythm_s=KEPT_S),
        budgets_ms=budgets_ms,
    )
    total_ms = sum(found["ms"].to_pylist())
    if total_ms < 1:
        st.caption("In their budgets, these stages would save nothing of p95.")
        return
    charts.draw("savings", found, f"In their budgets, these stages would save **{duration(total_ms)}** of p95 together")


def _savings(found: Mapping[str, float], *, budgets_ms: Mapping[str, float]) -> pa.Table:
    return pa.table(
        {"stage": list(found), "ms": list(found.values()), "budget_ms": [budgets_ms[stage] for stage in found]}
    )


def _card(name: str, was_ms: float, would_ms: float, *, few: bool) -> cards.Card:
    saved = was_ms - would_ms
    steady = saved < 0.05 * was_ms
    note = f"steady (now {duration(was_ms)})" if steady else f"▼ {duration(saved)} less than now ({duration(was_ms)})"
    return cards.Card(f"{name} would be", duration(would_ms), note, "small" if few else "none" if steady else "good")
