"""Is the service within its budgets, and if not, since when and in which stage?"""

import pyarrow as pa
import streamlit as st

from tailbudget.analytics import overview, stages, violations

from .parts import alerts, cards, charts, controls, empty, refresh, tables, words
from .parts.answers import answer


def page() -> None:
    """Draw the page, again every few seconds while it is live."""
    refresh.live(_body)


def _body() -> None:
    window, bucket_s = controls.window(), controls.chosen_range().bucket_s
    alerts.show(answer(overview.alerts, window))
    budgets = answer(overview.budgets).to_pylist()
    if budgets:
        cards.budgets(budgets, href=controls.link("violations"))
    running = answer(overview.running, now=controls.now(), route=window.route, tenant=window.tenant)
    summary = answer(overview.latency_summary, window).to_pylist()[0]
    if not summary["n"]:
        _running(running)
        empty.no_request()
        return
    cards.latency(summary, href=controls.link("latency"))
    left, right = st.columns([3, 2], gap="medium")
    with left:
        several = f" · the commonest of {summary['budgets']} budgets" if summary["budgets"] > 1 else ""
        title = f"Total latency by time · n {summary['n']:,} · drag to look into a stretch of time{several}"
        heatmap = answer(overview.latency_heatmap, window, bucket_s=bucket_s)
        charts.draw("heatmap", heatmap, title, brush="time", on_brush=controls.drag("heatmap"))
    with right:
        title = "Stages: bar p50 to p95, line to p99, tick the budget; right: p95 of budget"
        charts.draw("stage_bullets", answer(stages.stage_percentiles, window), title)
    _running(running)
    _violations(answer(violations.violations_by_stage, window), summary["n"])


def _running(running: pa.Table) -> None:
    if running.num_rows:
        st.caption(f"Running now beyond their time to first token, oldest first · n {running.num_rows:,}")
        tables.running(running)


def _violations(blamed: pa.Table, n: int) -> None:
    total = sum(blamed["n"].to_pylist())
    title = f"Violations by blamed stage · {total:,} of {words.count(n, 'request')} over a budget"
    if total:
        charts.draw("blamed_stages", blamed, title)
    else:
        st.caption(title)
