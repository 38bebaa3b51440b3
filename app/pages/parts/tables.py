"""Tables with their units and links."""

import pyarrow as pa
import streamlit as st

from .words import NOTHING

CLOCK = st.column_config.DatetimeColumn("started (UTC)", format="HH:mm:ss", timezone="UTC", width="small")
TOTAL = st.column_config.NumberColumn("total ms", format="%.0f", width="small")


def violations(rows: pa.Table) -> None:
    """Draw violations: when, trace link, why in a sentence, route, tenant, outcome, total."""
    link = st.column_config.LinkColumn("trace", display_text=r"request=(.*)$", width="small")
    st.dataframe(
        rows.select(["started", "trace", "why", "total_ms", "route", "tenant", "outcome"]),
        hide_index=True,
        height=400,
        placeholder=NOTHING,
        column_config={
            "started": CLOCK,
            "trace": link,
            "why": st.column_config.TextColumn(width="large"),
            "total_ms": TOTAL,
        },
    )


def stages(rows: pa.Table) -> None:
    """Draw the nine stages of a request: critical time, busy time, budget and excess in ms."""
    names = {"critical_ms": "critical ms", "busy_ms": "busy ms", "budget_ms": "budget ms", "over_ms": "over by ms"}
    numbers = {name: st.column_config.NumberColumn(label, format="%.1f") for name, label in names.items()}
    st.dataframe(
        rows.select(["stage", "spans", *names]),
        hide_index=True,
        column_config=numbers,
        height="content",
        placeholder=NOTHING,
    )


def attributes(rows: pa.Table) -> None:
    """Draw the attributes of the spans of a trace."""
    st.dataframe(rows, hide_index=True, height=352, placeholder=NOTHING)
