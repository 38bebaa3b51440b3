"""The SQL page's choice of a saved question, and the quick picture of an answer."""

from typing import Final

import pyarrow as pa
import streamlit as st

from tailbudget.instrument.errors import UserError

from . import charts, controls, saved

NONE: Final = "saved questions"
#: Rows that are drawn.
MOST_DRAWN: Final = 2_000


def choose() -> None:
    """Draw the list of saved questions, of which the chosen one goes into the editor, and what saves or deletes one."""
    known = saved.questions()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.selectbox(
            "Saved", [NONE, *known], key="saved", on_change=_take, label_visibility="collapsed", width="stretch"
        )
        with st.popover("Save", key="save-question"):
            st.text_input("Name", key="saved-name", placeholder="what it answers", max_chars=saved.LONGEST_NAME)
            st.button("Save this question", on_click=_save)
            if saved.is_own(str(st.session_state.get("saved"))):
                st.button("Delete the chosen one", on_click=_delete)
    if fault := st.session_state.pop("save-fault", None):
        st.error(fault)


def _take() -> None:
    if found := saved.questions().get(str(st.session_state["saved"])):
        st.session_state["sql"] = found


def _save() -> None:
    name = str(st.session_state.get("saved-name") or "")
    try:
        saved.save(name, str(st.session_state.get("sql") or ""))
        st.session_state["saved"] = name.strip()
    except UserError as error:
        st.session_state["save-fault"] = str(error)


def _delete() -> None:
    try:
        saved.delete(str(st.session_state["saved"]))
        st.session_state["saved"] = NONE
    except UserError as error:
        st.session_state["save-fault"] = str(error)


def picture(answered: pa.Table) -> None:
    """Draw one column of an answer against another: lines over time, bars by name, points of two numbers."""
    numbers = [field.name for field in answered.schema if _is_number(field.type)]
    across = [field.name for field in answered.schema if not pa.types.is_nested(field.type)]
    if not numbers or len(across) < 2 or answered.num_rows < 2:
        return
    left, right = st.columns(2)
    x = left.selectbox("Across", across, index=_first(across, numbers), key="across", bind="query-params")
    y = right.selectbox("Up", [name for name in numbers if name != x] or numbers, key="up", bind="query-params")
    rows = answered.slice(0, MOST_DRAWN)
    kind = rows.schema.field(x).type
    drawn = pa.table({"x": rows[x], "y": rows[y].cast(pa.float64())}, metadata=answered.schema.metadata)
    more = f" · the first {MOST_DRAWN:,} rows" if answered.num_rows > MOST_DRAWN else ""
    title = f"**{y}** by {x} · n {drawn.num_rows:,}{more}"
    if pa.types.is_temporal(kind):
        title += " · drag sets the range of all pages"
        timed = drawn.rename_columns(["t", "y"]).append_column("clock", drawn["x"].cast(pa.string()))
        charts.draw("quick_time", timed, title, brush="time", on_brush=controls.drag)
    elif _is_number(kind):
        charts.draw("quick_points", drawn, title)
    else:
        charts.draw("quick_bars", drawn.set_column(0, "x", rows[x].cast(pa.string())), title)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _first(across: list[str], numbers: list[str]) -> int:
    return next((place for place, name in enumerate(across) if name not in numbers), 0)
