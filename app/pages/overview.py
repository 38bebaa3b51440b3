"""Is the service within its budgets, and if not, since when and in which stage?"""

import pyarrow as pa
import streamlit as st

from tailbudget.analytics import overview, stages, violations

from .parts import alerts, cards, charts, controls, empty, refresh, words
from .parts.answers import answer


def page() -> None:
    """Draw the page, again every few seconds while it is live."""
    refresh.live(_body)


def _body() -> None:
    window, bucket_s = controls.window(), controls.chosen_range().bucket_s
    alerts.show(answer(overview.alerts, window))
    summary = answer(overview.latency_summary, window).to_pylist()[0]
    if not summary["n"]:
        empty.no_request()
        return
    cards.latency(summary)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        several = f" · the commonest of {summary['budgets']} budgets" if summary["budgets"] > 1 else ""
        st.caption(f"Total latency by time · n {summary['n']:,} · to {words.clock(window.to_ts)}{several}")
        charts.draw("heatmap", answer(overview.latency_heatmap, window, bucket_s=bucket_s))
    with right:
        st.caption("Stages: bar p50 to p95, line to p99, white tick the budget; right: p95 of budget, n requests")
        charts.draw("stage_bullets", answer(stages.stage_percentiles, window))
    _violations(answer(violations.violations_by_stage, window), summary["n"])


def _violations(blamed: pa.Table, n: int) -> None:
    total = sum(blamed["n"].to_pylist())
    st.caption(f"Violations by blamed stage · {total:,} of {words.count(n, 'request')} over a budget")
    if total:
        charts.draw("blamed_stages", blamed)
