"""Answers of the collector's API, shared between viewers for a few seconds, each with the SQL that gave it."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
import streamlit as st

from tailbudget.analytics.reader import ApiReader
from tailbudget.analytics.sag import SagSettings
from tailbudget.analytics.written import Recorder

T = TypeVar("T")
#: The refresh rhythm of the pages; a window's end is rounded to it, so that viewers share answers.
REFRESH_S = 5
#: Rows that the SQL page asks for at most.
MOST_ROWS = 10_000


def api() -> str:
    """Return the address of the collector's read API."""
    return os.environ.get("TAILBUDGET_API", "http://127.0.0.1:4320")


def sag_settings() -> SagSettings:
    """Return the detector's settings: TAILBUDGET_SAG (`1,240,30,30,15`), else the default ones."""
    return SagSettings.parse(os.environ.get("TAILBUDGET_SAG", ""))


def answer(question: Callable[..., T], *args: object, **named: object) -> T:
    """Return `question(reader, *args, **named)`, at most REFRESH_S old; raises what it raises.

    A table carries the SQL that gave it, which `asked` returns.
    """
    found: T = _answer(question, args, named, key=f"{api()} {question.__module__}.{question.__name__} {args} {named}")
    return found


def asked(answered: pa.Table) -> str:
    """Return the SQL that gave a table, or one that was made of it by selecting; empty when it is not known."""
    return str((answered.schema.metadata or {}).get(b"sql", b"").decode())


def typed(sql: str) -> pa.Table:
    """Return the first MOST_ROWS rows of a statement that a person wrote; raises QueryError."""
    return ApiReader(api(), max_rows=MOST_ROWS).query(sql)


@st.cache_data(ttl=REFRESH_S, max_entries=256, show_spinner=False)
def _answer(_question: Callable[..., Any], _args: tuple[object, ...], _named: dict[str, object], *, key: str) -> Any:
    del key  # what the cache tells answers apart by
    reader = Recorder(ApiReader(api()))
    found: Any = _question(reader, *_args, **_named)
    if isinstance(found, pa.Table):
        found = found.replace_schema_metadata({"sql": "\n;\n\n".join(reader.asked)})
    return found
