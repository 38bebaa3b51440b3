"""What Streamlit leaves to the page in the browser: room, an outline of the focus, and a way back for each step."""

from typing import Final

import streamlit as st

#: The room around the page, and titles beside their tools on a phone too. Then where the keyboard is, in the colour of
#: the text, which stands out in both themes: Streamlit marks links, the buttons of pictures and tables with nothing.
#: What it shows above a picture on hover would cover our own button there.
STYLE: Final = """<style>
[data-testid="stMainBlockContainer"] { padding-left: clamp(1rem, 2.5vw, 5rem); padding-right: clamp(1rem, 2.5vw, 5rem);
  padding-bottom: 2rem }
[class*="st-key-head-"] { flex-wrap: nowrap } [class*="st-key-head-"] > :first-child { min-width: 0 }
:is(a, button, canvas, summary, [role="radio"]):focus-visible {
  outline: 2px solid currentColor !important; outline-offset: 2px !important;
}
[data-testid="stElementContainer"]:has(script) { position: absolute }
[data-testid="stElementToolbar"] { right: 6.2rem }
</style>"""
#: The first change of the address after a gesture is a step that the browser's back undoes; what follows from it, or
#: from back and forward, belongs to that step. Of its own, Streamlit makes a step of what the server changes (a drag)
#: and none of what a person does to a control.
STEPS: Final = """<script>
if (!window.tailbudgetSteps) {
  window.tailbudgetSteps = true;
  let isNew = false;
  const push = history.pushState.bind(history), replace = history.replaceState.bind(history);
  const step = (state, title, url) => { (isNew ? push : replace)(state, title, url); isNew = false; };
  history.pushState = history.replaceState = step;
  addEventListener('pointerdown', () => { isNew = true; }, true);
  addEventListener('keydown', (event) => { isNew ||= !event.repeat; }, true);
  addEventListener('click', (event) => { isNew ||= event.detail === 0; }, true);
  addEventListener('popstate', () => { isNew = false; }, true);
}
</script>"""


def show() -> None:
    """Draw both, which take no room, once a visit."""
    st.html(STYLE)
    st.html(STEPS, unsafe_allow_javascript=True)
