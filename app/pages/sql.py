"""Whatever else one wants to know: any question in SQL, with the tables beside it."""

import streamlit as st

from tailbudget.analytics import coverage

from .parts import asking, charts, refresh, saved, tables, words
from .parts.answers import MOST_ROWS, answer, typed


def page() -> None:
    """Draw the editor, the answer, and the columns that can be asked."""
    refresh.once(_body)


def _body() -> None:
    left, right = st.columns([3, 2], gap="medium")
    with left:
        asking.choose()
        if "sql" not in st.session_state and "sql" not in st.query_params:
            # No default of the widget's own, which a saved question could not replace.
            st.session_state["sql"] = saved.first()
        text = st.text_area("SQL", height=190, key="sql", bind="query-params", label_visibility="collapsed")
        st.caption(f"Ctrl+Enter asks; only reading, at most {MOST_ROWS:,} rows; the address is a link to the question.")
        found = typed(text or saved.first())
        charts.tools(found, f"**{words.count(found.num_rows, 'row')}**", name="answer")
        asking.picture(found)
        tables.plain(found)
    with right:
        columns = answer(coverage.columns)
        names = sorted(set(columns["table_name"].to_pylist()))
        first = names.index("requests") if "requests" in names else 0
        table = st.selectbox("Table", names, index=first, key="table", bind="query-params")
        tables.columns(columns, table=table)
