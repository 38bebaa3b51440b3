"""Do tokens come as fast as the load leads to expect, and if not, since when and what held them back?"""

import streamlit as st

from tailbudget.analytics import overview, token_rate
from tailbudget.analytics.window import Window

from .parts import alerts, charts, controls, leads, refresh, series, tables, words
from .parts.answers import answer, sag_settings


def page() -> None:
    """Draw the page, again every few seconds while it is live."""
    refresh.live(_body)


def _body() -> None:
    window, chosen, settings = controls.window(), controls.chosen_range(), sag_settings()
    alerts.show(opened := answer(overview.alerts, window), kinds=("sag",))
    rates = answer(token_rate.token_rate, window, bucket_s=chosen.bucket_s, settings=settings)
    if not rates.num_rows:
        st.info(
            f"No token was decoded in {chosen.words}: a service sends its rate, the `slo.decode` metrics, "
            "once it calls `tailbudget.init()` and streams an answer."
        )
    else:
        st.caption("Line: decode rate of a stream, coral below what is expected · grey: expected · drag over time")
        leads.latency(opened, to_ts=window.to_ts)
    for one in series.split(rates):
        charts.draw("token_rate", one.rows, one.heading, key=one.key, brush="time", on_brush=controls.drag)
    _gpus(window, chosen.bucket_s)
    _streams(window, chosen.bucket_s)
    st.caption(series.detector(settings))


def _gpus(window: Window, bucket_s: int) -> None:
    clocks = answer(token_rate.gpu_clock, window, bucket_s=bucket_s)
    if not clocks.num_rows:
        st.caption("No GPU: no sample in this range, so there is no clock to show beside the rate.")
    for one in series.gpus(clocks):
        charts.draw("gpu_clock", one.rows, one.heading, key=one.key, brush="time", on_brush=controls.drag)
        if one.rows["power_w"].null_count < one.rows.num_rows:
            n = words.count(sum(one.rows["n"].to_pylist()), "sample")
            title = f"**GPU power** · {words.plain(one.key)} · dashed: allowed · n {n}"
            charts.draw("gpu_power", one.rows, title, key=one.key, brush="time", on_brush=controls.drag)


def _streams(window: Window, bucket_s: int) -> None:
    troubled = answer(token_rate.stream_trouble, window, bucket_s=bucket_s)
    if not sum(troubled["troubled"].to_pylist()):
        charts.tools(troubled, series.trouble(troubled), name="stream_trouble")
        return
    left, right = st.columns(2, gap="medium")
    with left:
        charts.draw("stream_trouble", troubled, series.trouble(troubled), brush="time", on_brush=controls.drag)
    with right:
        worst = answer(token_rate.worst_streams, window)
        charts.tools(worst, f"**The worst of them** · n {worst.num_rows} · an id opens it", name="worst")
        tables.streams(tables.linked(worst))
