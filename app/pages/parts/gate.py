"""Asks for the token where the dashboard can be reached from other machines."""

import hmac
import os
import time
from typing import Final

import streamlit as st

#: Holds the token while a dashboard that others can reach asks for one; set when it starts.
VARIABLE: Final = "TAILBUDGET_APP_ASKS_FOR"
#: What a wrong answer costs.
PAUSE_S: Final = 0.5


def passed() -> bool:
    """Return whether this viewer may see the pages; else draw the question."""
    token = os.environ.get(VARIABLE, "")
    if not token or st.session_state.get("passed"):
        return True
    given = st.text_input(
        "Token", type="password", help="The one that TAILBUDGET_TOKEN or --token-file gave.", width=420
    )
    if given and hmac.compare_digest(given.strip().encode(), token.encode()):
        st.session_state["passed"] = True
        st.rerun()
    if given:
        time.sleep(PAUSE_S)
        st.error("That is not the token: ask who started the dashboard.")
    return False
