"""What every visit runs: the navigation, the controls that all pages share, then the page."""

import streamlit as st

from . import compare, coverage, gpu, latency, load, overview, service_map, sql, stages, token_rate, trace, violations
from .parts import controls, gate


def run() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="tailbudget", layout="wide")
    page = st.navigation(
        [
            st.Page(overview.page, title="Overview", default=True),
            st.Page(latency.page, title="Latency", url_path="latency"),
            st.Page(stages.page, title="Stages", url_path="stages"),
            st.Page(violations.page, title="Violations", url_path="violations"),
            st.Page(token_rate.page, title="Token rate", url_path="token-rate"),
            st.Page(gpu.page, title="GPU runtime", url_path="gpu"),
            st.Page(trace.page, title="Trace", url_path="trace"),
            st.Page(service_map.page, title="Map", url_path="map"),
            st.Page(compare.page, title="Compare", url_path="compare"),
            st.Page(load.page, title="Load", url_path="load"),
            st.Page(coverage.page, title="Coverage", url_path="coverage"),
            st.Page(sql.page, title="SQL", url_path="sql"),
        ],
        position="top",
    )
    if gate.passed():
        controls.show(page.title)
        page.run()
