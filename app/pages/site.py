"""What every visit runs: the navigation, the controls that all pages share, then the page."""

from typing import Final

import streamlit as st

from . import (
    capacity,
    compare,
    coverage,
    diagnoses,
    gpu,
    latency,
    load,
    overview,
    service_map,
    sql,
    stages,
    token_rate,
    trace,
    violations,
)
from .parts import browser, controls, gate

#: Title, path (the first page answers at the root), what draws it, and what of the filter narrows it.
PAGES: Final = (
    ("Overview", None, overview.page, controls.FILTERS),
    ("Latency", "latency", latency.page, controls.FILTERS),
    ("Stages", "stages", stages.page, controls.FILTERS),
    ("Violations", "violations", violations.page, controls.FILTERS),
    ("Diagnoses", "diagnoses", diagnoses.page, controls.FILTERS),
    ("Token rate", "token-rate", token_rate.page, ("model",)),
    ("GPU runtime", "gpu", gpu.page, ("model",)),
    ("Capacity", "capacity", capacity.page, ()),
    ("Trace", "trace", trace.page, controls.FILTERS),
    ("Map", "map", service_map.page, ()),
    ("Compare", "compare", compare.page, controls.FILTERS),
    ("Load", "load", load.page, ()),
    ("Coverage", "coverage", coverage.page, ()),
    ("SQL", "sql", sql.page, ()),
)


def run() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="tailbudget", layout="wide")
    pages = [st.Page(draw, title=title, url_path=path, default=path is None) for title, path, draw, _ in PAGES]
    page = st.navigation(pages, position="top")
    browser.show()
    if gate.passed():
        controls.show(page.title, filters=next(filters for title, *_, filters in PAGES if title == page.title))
        page.run()
