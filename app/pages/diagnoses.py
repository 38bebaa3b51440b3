"""What would an expert say is wrong, on which figures, and what would mend it?"""

import streamlit as st

from tailbudget.analytics import diagnoses, overview

from .parts import charts, controls, diagnosed, empty, refresh, words
from .parts.answers import answer, kept

#: Cards on the page, the newest first.
MOST = 30


def page() -> None:
    """Draw the page, again every minute while it is live: each rule judges minutes."""
    refresh.live(_body, every_s=diagnosed.RHYTHM_S)


def _body() -> None:
    window = controls.window(rhythm_s=diagnosed.RHYTHM_S)
    found = kept(diagnoses.findings, window)
    if not found.num_rows and not answer(overview.latency_summary, window)["n"][0].as_py():
        empty.no_request()
        return
    if not found.num_rows:
        st.success(
            f"None of {len(diagnosed.RULES)} diagnoses finds anything in {controls.chosen_range().words}. Each needs "
            "its data and a number of events: docs/diagnoses.md says which, Coverage what is missing here."
        )
        return
    troubles = diagnosed.troubles(found)
    counted = f"{words.count(len(troubles), 'trouble')} · n {words.count(found.num_rows, 'finding')}"
    charts.draw(
        "diagnoses",
        diagnosed.shown(found, window),
        f"{counted} · ▲ pages · drag over time",
        brush="time",
        on_brush=controls.drag,
    )
    diagnosed.show(troubles[:MOST])
    if len(troubles) > MOST:
        st.caption(f"The newest {MOST} of {len(troubles)}: choose a shorter range, or a route, for the others.")
