"""How many GPUs does the peak need, and at which load does one replica break its limits?"""

import pyarrow as pa
import streamlit as st

from tailbudget.analytics import step_time, worksheet
from tailbudget.instrument.errors import UserError

from .parts import charts, controls, empty, plans, refresh, tables, words
from .parts.answers import answer, table


def page() -> None:
    """Draw the page, once: a plan is made from hours, not from the last seconds."""
    refresh.once(_body)


def _body() -> None:
    window = controls.window()
    demands = answer(worksheet.demands, window)
    if not demands:
        empty.no_request()
        return
    try:
        with st.container(key="asked"):
            asked = plans.ask(answer(step_time.step_fits, window))
        if asked is None:
            return
        found = answer(worksheet.worksheets, window, **asked)
        curves = table(plans.curves, worksheet.worksheets, window, **asked)
    except UserError as error:
        st.warning(words.plain(str(error)))
        return
    for sheet in found:
        _region(sheet, curves)


def _region(sheet: worksheet.Sheet, curves: pa.Table) -> None:
    name = sheet.demand.region
    if name:
        st.subheader(words.plain(name))
    plans.cards_of(sheet)
    st.caption(words.plain(plans.sentence(sheet)))
    n = words.count(sum(row["n"] for row in sheet.demand.buckets), "call")
    title = f"One replica: its times as shares of their limits, at p{100 * sheet.limits.share:g} · mix of {n}"
    charts.draw("capacity_curve", plans.of_region(curves, name), title, key=name)
    for column, what, rows in zip(
        st.columns(2, gap="medium"), ("prompt bucket", "tenant"), (sheet.demand.buckets, sheet.tenants), strict=True
    ):
        with column:
            told = plans.rows(rows, curves)
            charts.tools(told, f"By {what} · {n}", name=f"{what}{name}")
            tables.named(told)
