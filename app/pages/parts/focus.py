"""Shows where the keyboard is: Streamlit marks links, the buttons of pictures and tables with nothing."""

from typing import Final

import streamlit as st

#: In the colour of the text, which stands out in both themes.
STYLE: Final = """<style>
:is(a, button, canvas, summary, [role="radio"]):focus-visible {
    outline: 2px solid currentColor !important; outline-offset: 2px !important;
}
</style>"""


def show() -> None:
    """Draw an outline around what has the focus, once a visit."""
    st.html(STYLE)
