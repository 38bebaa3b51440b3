"""What a page says when it has nothing to show: why, and what to do next."""

from datetime import UTC, datetime
from urllib.parse import urlsplit

import streamlit as st

from tailbudget.analytics import overview

from . import controls
from .answers import answer, api


def no_request() -> None:
    """Say that no request was received at all, or none in the chosen range and route."""
    if not answer(overview.routes, now=datetime.now(UTC).replace(minute=0, second=0, microsecond=0)).num_rows:
        host = urlsplit(api()).hostname
        st.info(
            "No request yet: point `OTEL_EXPORTER_OTLP_ENDPOINT` at your collector's OTLP port (4318 unless you moved "
            f"it) on `{host}`."
        )
        return
    route = controls.window().route
    st.info(
        f"No request{f' of {route}' if route else ''} in {controls.chosen_range().words}: "
        "choose a longer range above" + (", or all routes" if route else "") + "."
    )
