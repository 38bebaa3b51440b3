"""Answers of the collector's API, shared between viewers for a few seconds, each with the SQL that gave it."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
import streamlit as st

from tailbudget.analytics.reader import ApiReader, Reader
from tailbudget.analytics.sag import SagSettings
from tailbudget.analytics.slices import Sliced
from tailbudget.analytics.window import Window
from tailbudget.analytics.written import Recorder

from ...elsewhere import READERS, Elsewhere

T = TypeVar("T")
#: The refresh rhythm of the pages; a window's end is rounded to it, so that viewers share answers.
REFRESH_S = 5
#: Answers that change slowly, or cost much, may be so old.
KEPT_S = 60
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
    found: T = _told(question, args, named)[0]
    return found


def kept(question: Callable[..., T], *args: object, **named: object) -> T:
    """Return the same, at most KEPT_S old."""
    found: T = _kept(question, args, named, key=_key(question, args, named))[0]
    return found


def table(make: Callable[[Any], pa.Table], question: Callable[..., Any], *args: object, **named: object) -> pa.Table:
    """Return the table that `make` makes of an answer that is none itself, with the SQL that gave it."""
    found, sql = _told(question, args, named)
    return make(found).replace_schema_metadata({"sql": sql})


def joined(rows: pa.Table, *answers: pa.Table) -> pa.Table:
    """Return rows that were made of several answers, with the SQL that gave these."""
    return rows.replace_schema_metadata({"sql": "\n;\n\n".join(asked(one) for one in answers)})


def asked(answered: pa.Table) -> str:
    """Return the SQL that gave a table, or one that was made of it by selecting; empty when it is not known."""
    return str((answered.schema.metadata or {}).get(b"sql", b"").decode())


def typed(sql: str) -> pa.Table:
    """Return the answer to a statement that a person wrote; raises QueryError, beyond MOST_ROWS of a collector too.

    Another engine gives the first MOST_ROWS.
    """
    if os.environ.get("TAILBUDGET_READER", READERS[0]) != READERS[0]:
        return _reader().query(f"from ({sql.strip().rstrip(';')}) limit {MOST_ROWS}")
    return ApiReader(api(), max_rows=MOST_ROWS).query(sql)


def _reader() -> Reader:
    """Return what answers: the collector, or the engine that the dashboard was started with."""
    engine = os.environ.get("TAILBUDGET_READER", READERS[0])
    return ApiReader(api()) if engine == READERS[0] else _engine(engine)


@st.cache_resource(show_spinner="connecting")
def _engine(engine: str) -> Reader:
    return Elsewhere(engine, os.environ.get("TAILBUDGET_URL", ""), os.environ.get("TAILBUDGET_LAKE", "")).open()


def _ask(
    _question: Callable[..., Any], _args: tuple[object, ...], _named: dict[str, object], *, key: str
) -> tuple[Any, str]:
    del key  # what the cache tells answers apart by
    recorder = Recorder(_reader())
    asked = (getattr(one, "window", one) for one in _args)  # a side of a comparison has its own
    windows = [one for one in asked if isinstance(one, Window) and one.slice]
    found: Any = _question(Sliced(recorder, windows) if windows else recorder, *_args, **_named)
    sql = "\n;\n\n".join(recorder.asked)
    return (found.replace_schema_metadata({"sql": sql}) if isinstance(found, pa.Table) else found), sql


_answer = st.cache_data(ttl=REFRESH_S, max_entries=256, show_spinner=False)(_ask)


@st.cache_data(ttl=KEPT_S, max_entries=64, show_spinner=False)
def _kept(
    _question: Callable[..., Any], _args: tuple[object, ...], _named: dict[str, object], *, key: str
) -> tuple[Any, str]:
    return _ask(_question, _args, _named, key=key)


def _told(question: Callable[..., Any], args: tuple[object, ...], named: dict[str, object]) -> tuple[Any, str]:
    told: tuple[Any, str] = _answer(question, args, named, key=_key(question, args, named))
    return told


def _key(question: Callable[..., Any], args: tuple[object, ...], named: dict[str, object]) -> str:
    return f"{api()} {question.__module__}.{question.__name__} {args} {named}"
