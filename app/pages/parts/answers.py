"""Answers of the collector's API, shared between viewers for a few seconds."""

import os
from collections.abc import Callable

import pyarrow as pa
import streamlit as st

from tailbudget.analytics.reader import ApiReader
from tailbudget.analytics.sag import SagSettings

#: The refresh rhythm of the pages; a window's end is rounded to it, so that viewers share answers.
REFRESH_S = 5


def api() -> str:
    """Return the address of the collector's read API."""
    return os.environ.get("TAILBUDGET_API", "http://127.0.0.1:4320")


def sag_settings() -> SagSettings:
    """Return the detector's settings: TAILBUDGET_SAG (`1,240,30,30,15`), else the default ones."""
    return SagSettings.parse(os.environ.get("TAILBUDGET_SAG", ""))


def answer(question: Callable[..., pa.Table], *args: object, **named: object) -> pa.Table:
    """Return `question(reader, *args, **named)`, at most REFRESH_S old; raises QueryError."""
    return _answer(question, args, named, key=f"{api()} {question.__module__}.{question.__name__} {args} {named}")


@st.cache_data(ttl=REFRESH_S, max_entries=256, show_spinner=False)
def _answer(
    _question: Callable[..., pa.Table], _args: tuple[object, ...], _named: dict[str, object], *, key: str
) -> pa.Table:
    del key  # what the cache tells answers apart by
    return _question(ApiReader(api()), *_args, **_named)
