"""What a page says when it has nothing to show: why, and what to do next."""

from urllib.parse import urlsplit

import streamlit as st

from . import controls, words
from .answers import api


def no_request() -> None:
    """Say that no request was received at all, or none in the chosen range and route."""
    if not controls.known().num_rows:
        host = urlsplit(api()).hostname
        st.info(
            "No request yet: point `OTEL_EXPORTER_OTLP_ENDPOINT` at your collector's OTLP port (4318 unless you moved "
            f"it) on `{host}`."
        )
        return
    chosen = [str(value) for value in (*controls.window().only().values(), controls.only()) if value]
    of = f" of {words.plain(', '.join(chosen))}" if chosen else ""
    wider = ", or fewer filters" if chosen else ""
    st.info(f"No request{of} in {controls.chosen_range().words}: choose a longer range above{wider}.")
