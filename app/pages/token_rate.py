"""Do tokens come as fast as the load leads to expect, and if not, since when?"""

import streamlit as st

from tailbudget.analytics import overview, token_rate

from .parts import alerts, charts, controls, refresh, series, words
from .parts.answers import answer, sag_settings


def page() -> None:
    """Draw the page, again every few seconds while it is live."""
    refresh.live(_body)


def _body() -> None:
    window, chosen, settings = controls.window(), controls.chosen_range(), sag_settings()
    alerts.show(answer(overview.alerts, window), kinds=("sag",))
    rates = answer(token_rate.token_rate, window, bucket_s=chosen.bucket_s, settings=settings)
    if not rates.num_rows:
        st.info(
            f"No token was decoded in {chosen.words}: the rate comes from the `slo.decode` metrics, which a "
            "service sends once it calls `tailbudget.init()` and streams an answer."
        )
    else:
        st.caption(
            f"Bars: decode rate, all tokens over all stream-seconds · dashed: expected · to {words.clock(window.to_ts)}"
        )
    for one in series.split(rates):
        charts.draw("token_rate", one.rows, one.heading, key=str(one.rows["series"][0]))
    st.caption(series.detector(settings))
    clocks = answer(token_rate.gpu_clock, window, bucket_s=chosen.bucket_s)
    for one in series.split_by(clocks, "gpu"):
        title = f"**GPU clock** · {words.plain(str(one['gpu'][0]))} · n {sum(one['n'].to_pylist()):,} samples"
        charts.draw("gpu_clock", one, title, key=str(one["gpu"][0]))
    if not clocks.num_rows:
        st.caption("No GPU: no sample in this range, so there is no clock to show beside the rate.")
