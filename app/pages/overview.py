"""Is the service within its budgets, and if not, since when and in which stage?"""

import pyarrow as pa
import streamlit as st

from tailbudget.analytics import overview, stages, violations
from tailbudget.analytics.objectives import burn
from tailbudget.analytics.percentiles import percentiles

from .parts import alerts, cards, charts, controls, empty, refresh, tables, words
from .parts.answers import answer


def page() -> None:
    """Draw the page, again every few seconds while it is live."""
    refresh.live(_body)


def _body() -> None:
    window, chosen = controls.window(), controls.chosen_range()
    alerts.show(answer(overview.alerts, window))
    budgets = answer(overview.budgets).to_pylist()
    if budgets:
        cards.budgets(budgets, answer(burn.percentiles, window, budgets), span=chosen.words)
    running = answer(overview.running, window, now=controls.now())
    summary = answer(overview.latency_summary, window).to_pylist()[0]
    total = answer(percentiles, window).to_pylist()[0]
    if total["n"]:
        cards.latency(summary, total, href=controls.link("latency"))
    if not summary["n"]:
        tables.running(running)
        st.info(total["reason"]) if total["n"] else empty.no_request()
        return
    left, right = st.columns([3, 2], gap="medium")
    with left:
        several = f" · the commonest of {summary['budgets']} budgets" if summary["budgets"] > 1 else ""
        title = f"Total latency by time · n {summary['n']:,} · drag to look into a stretch of time{several}"
        heatmap = answer(overview.latency_heatmap, window, bucket_s=chosen.bucket_s)
        charts.draw("heatmap", heatmap, title, brush="time", on_brush=controls.drag)
    with right:
        title = "Stages: bar p50 to p95, line to p99, tick the budget; right: p95 of budget"
        charts.draw("stage_bullets", answer(stages.stage_percentiles, window), title)
    tables.running(running)
    _violations(answer(violations.violations_by_stage, window), summary["n"])


def _violations(blamed: pa.Table, n: int) -> None:
    total = sum(blamed["n"].to_pylist())
    title = f"Violations by blamed stage · {total:,} of {words.count(n, 'request')} over a budget"
    if total:
        charts.draw("blamed_stages", blamed, title)
    else:
        st.caption(title)
