"""Runs the body of a page again every few seconds, and says in words what keeps it from answering."""

from collections.abc import Callable

import streamlit as st

from tailbudget.analytics import overview
from tailbudget.analytics.reader import NotAnsweredError, QueryError

from . import controls
from .answers import REFRESH_S, answer

#: Assembly every 2 s and landing every 200 ms are normal; beyond this the page is older than it looks.
LAG_S = 10


def live(body: Callable[[], None], *, every_s: int = REFRESH_S) -> None:
    """Run `body` now and, while the page is live, every `every_s` seconds; a QueryError becomes a message."""
    began = (controls.is_live(), controls.between())

    def run() -> None:
        if (controls.is_live(), controls.between()) != began:
            st.rerun()  # a selection or a dragged range: the rhythm and the controls above are drawn anew
        once(body)

    st.fragment(run, run_every=every_s if began[0] else None)()


def once(body: Callable[[], None]) -> None:
    """Run `body` after a line about the collector's lag, if there is one; a QueryError becomes a message.

    The first time in a session it says that it asks; later the page stays as it was until the answers are there.
    """
    name = f"seen {body.__module__}"
    place = st.empty()  # always there, so that what follows keeps its place and is not drawn anew
    if name not in st.session_state:
        place.caption("Asking the collector ... A shorter range, chosen above, is answered sooner.")
    st.session_state[name] = True
    try:
        _lag()
        body()
    except QueryError as error:
        st.error(f"{error}" + (f" ({error.hint})" if error.hint else ""))
    finally:
        place.empty()


def _lag() -> None:
    try:
        lag_s = answer(overview.assembly_lag, now=controls.window().to_ts)["lag_s"][0].as_py()
    except NotAnsweredError:  # a store that many collectors write: each knows its own lag
        return
    if lag_s is not None and lag_s > LAG_S:
        st.warning(
            f"The collector is {lag_s:.0f} s behind: newer requests are received but not shown yet. It "
            "catches up by itself; else send it less, or give it more cores: Coverage shows who sends how much."
        )
