"""What is picked in a picture stands in the address: a link shows it, back undoes it, and the page stands still."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import streamlit as st

#: In the address: what is picked, and where the window ended in which it was.
PICKED: Final = "picked"
UNTIL: Final = "until"


def text() -> str:
    """Return what is picked as the address says it: `FROM/TO/LOW/HIGH` in UTC, or a mark's id; empty for nothing."""
    return st.query_params.get(PICKED, "")


def bounds() -> dict[str, Any]:
    """Return what is picked as a picture says it, `t` and `lo_ms` or `id`; `{}` for nothing, or nonsense."""
    said = text()
    try:
        if "/" not in said:
            return {"id": int(said)}
        begin, end, low, high = said.split("/")
        t = [datetime.fromisoformat(one).replace(tzinfo=UTC).timestamp() * 1000 for one in (begin, end)]
        lo_ms = [float(low), float(high)]
    except ValueError:
        return {}
    return {"t": t, "lo_ms": lo_ms} if t[0] < t[1] and lo_ms[0] < lo_ms[1] else {}


def until() -> datetime | None:
    """Return where the window ends while something is picked in it; None where nothing holds it."""
    try:
        return datetime.fromisoformat(st.query_params.get(UNTIL, "")).replace(tzinfo=UTC)
    except ValueError:
        return None


def pick(found: Mapping[str, Any]) -> None:
    """Write into the address what was picked, and the end of the window that it was picked in; nothing ends both."""
    said = str(found["id"]) if "id" in found else _box(found)
    if said:
        ends = st.session_state.get(UNTIL)
        st.query_params.update({PICKED: said} | ({UNTIL: f"{ends:%Y-%m-%dT%H:%M:%S}"} if ends else {}))
    else:
        for name in (PICKED, UNTIL):
            st.query_params.pop(name, None)


def _box(found: Mapping[str, Any]) -> str:
    if not {"t", "lo_ms"} <= found.keys():
        return ""
    begin_ms, end_ms = sorted(found["t"])
    seconds = (begin_ms // 1000, end_ms // 1000 + 1)  # all of the seconds that it touches
    times = (f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}" for second in seconds)
    return "/".join((*times, *(f"{round(ms, 1):g}" for ms in sorted(found["lo_ms"]))))


def choose(marks: Mapping[int, str], *, shown: int) -> None:
    """Draw the list of marks, ids in words, which picks by keyboard what a click picks in the picture."""
    place = f"mark {shown}"  # another one is another list: it begins with the one that is shown
    st.selectbox(
        "Moment",
        list(marks),
        index=list(marks).index(shown),
        format_func=marks.__getitem__,
        key=place,
        on_change=lambda: pick({"id": st.session_state[place]}),
        label_visibility="collapsed",
    )


def ending() -> None:
    """Draw the button that ends what is picked; nothing while nothing is."""
    if text():
        st.button("End the selection", type="tertiary", key="end-picked", on_click=pick, args=({},))
