"""What Streamlit leaves to the page in the browser: room, an outline of the focus, a way back, links by keyboard."""

from typing import Final

import streamlit as st

#: The room around the page, and titles beside their tools on a phone too. Then where the keyboard is, in the colour of
#: the text, which stands out in both themes: Streamlit marks links, the buttons of pictures and tables with nothing.
#: Fields to fill in stand side by side on a phone. What Streamlit shows above a picture on hover would cover our own
#: button there.
STYLE: Final = """<style>
[data-testid="stMainBlockContainer"] { padding-left: clamp(1rem, 2.5vw, 5rem); padding-right: clamp(1rem, 2.5vw, 5rem);
  padding-bottom: 2rem }
[class*="st-key-head-"] { flex-wrap: nowrap } [class*="st-key-head-"] > :first-child { min-width: 0 }
:is(a, button, canvas, summary, [role="radio"]):focus-visible {
  outline: 2px solid currentColor !important; outline-offset: 2px !important;
}
@media (max-width: 640px) {
  .st-key-asked [data-testid="stColumn"] { min-width: 40% !important; flex: 1 1 40% !important }
}
[data-testid="stElementContainer"]:has(script) { position: absolute }
[data-testid="stElementToolbar"] { right: 6.2rem }
</style>"""
#: The first change of the address after a gesture is a step that the browser's back undoes; what follows from it, or
#: from back and forward, belongs to that step. Of its own, Streamlit makes a step of what the server changes (a drag)
#: and none of what a person does to a control. Then Enter on a link in a table, of which Streamlit draws the words and
#: hides the address in the cell that has the focus: it opens as it does by a click.
SCRIPT: Final = """<script>
if (!window.tailbudget) {
  window.tailbudget = true;
  let isNew = false;
  const push = history.pushState.bind(history), replace = history.replaceState.bind(history);
  const step = (state, title, url) => { (isNew ? push : replace)(state, title, url); isNew = false; };
  history.pushState = history.replaceState = step;
  addEventListener('pointerdown', () => { isNew = true; }, true);
  addEventListener('keydown', (event) => { isNew ||= !event.repeat; }, true);
  addEventListener('click', (event) => { isNew ||= event.detail === 0; }, true);
  addEventListener('popstate', () => { isNew = false; }, true);
  addEventListener('keydown', (event) => {
    const cell = document.activeElement;
    if (event.key !== 'Enter' || !cell.id.startsWith('glide-cell-') || !/^\\/[\\w-]+\\?/.test(cell.textContent)) return;
    event.stopPropagation();
    window.open(cell.textContent, '_blank');
  }, true);
}
</script>"""


def show() -> None:
    """Draw both, which take no room, once a visit."""
    st.html(STYLE)
    st.html(SCRIPT, unsafe_allow_javascript=True)
