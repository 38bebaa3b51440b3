"""Answers of the collector's API, shared between viewers for a few seconds, each with the SQL that gave it."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pyarrow as pa
import streamlit as st

from tailbudget.analytics.reader import ApiReader, Reader
from tailbudget.analytics.sag import SagSettings
from tailbudget.analytics.slices import Sliced
from tailbudget.analytics.window import Window
from tailbudget.analytics.written import Recorder

from ...elsewhere import READERS, Elsewhere
from .renewed import Renewed

T = TypeVar("T")
#: The refresh rhythm of the pages; a window's end is rounded to it, so that viewers share answers.
REFRESH_S = 5
#: Answers that change slowly, or cost much, may be so old.
KEPT_S = 60
#: For a newer one a viewer waits so long, which is hardly seen; else is given what is at most so old.
WAITED_S = 0.25
GIVEN_S = 600
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
    """Return the same, at most KEPT_S old; up to GIVEN_S where a new one takes longer than WAITED_S, or fails.

    The new one is asked for behind the viewers, once for all of them; `old_since` says whether they have it. A table
    without rows is given for KEPT_S alone.
    """
    reader = _reader()  # here, since connecting to an engine draws
    told: tuple[T, str] = _KEPT.get(_key(question, args, named), lambda: _ask(reader, question, args, named))
    return told[0]


def prepare(question: Callable[..., object], *args: object, **named: object) -> None:
    """Ask what `kept` will be asked, so that who looks first need not wait; raises what `question` raises."""
    reader = _reader()
    _KEPT.prepare(_key(question, args, named), lambda: _ask(reader, question, args, named))


def forget() -> None:
    """Forget all answers: the next ones are asked for."""
    st.cache_data.clear()
    _KEPT.clear()


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


def old_since(*answers: pa.Table) -> datetime | None:
    """Return when the oldest of these answers was asked for; None where that is at most KEPT_S ago."""
    at = min(datetime.fromisoformat(answered.schema.metadata[b"at"].decode()) for answered in answers)
    return at if (_now() - at).total_seconds() > KEPT_S else None


def from_collector() -> bool:
    """Return whether a collector answers, not an engine that the dashboard was started with."""
    return os.environ.get("TAILBUDGET_READER", READERS[0]) == READERS[0]


def typed(sql: str) -> pa.Table:
    """Return the answer to a statement that a person wrote; raises QueryError, beyond MOST_ROWS of a collector too.

    Another engine gives the first MOST_ROWS.
    """
    if not from_collector():
        return _reader().query(f"from ({sql.strip().rstrip(';')}) limit {MOST_ROWS}")
    return ApiReader(api(), max_rows=MOST_ROWS).query(sql)


def _reader() -> Reader:
    """Return what answers: the collector, or the engine that the dashboard was started with."""
    return ApiReader(api()) if from_collector() else _engine(os.environ["TAILBUDGET_READER"])


@st.cache_resource(show_spinner="connecting")
def _engine(engine: str) -> Reader:
    return Elsewhere(engine, os.environ.get("TAILBUDGET_URL", ""), os.environ.get("TAILBUDGET_LAKE", "")).open()


def _ask(
    reader: Reader, question: Callable[..., Any], args: tuple[object, ...], named: dict[str, object]
) -> tuple[Any, str]:
    """Return the answer with its SQL; a table has that, and when it was asked for, in its metadata."""
    at, recorder = _now(), Recorder(reader)
    sides = (getattr(one, "window", one) for one in args)  # a side of a comparison has its own
    windows = [one for one in sides if isinstance(one, Window) and one.slice]
    found: Any = question(Sliced(recorder, windows) if windows else recorder, *args, **named)
    sql = "\n;\n\n".join(recorder.asked)
    if isinstance(found, pa.Table):
        found = found.replace_schema_metadata({"sql": sql, "at": at.isoformat()})
    return found, sql


@st.cache_data(ttl=REFRESH_S, max_entries=256, show_spinner=False)
def _answer(
    _question: Callable[..., Any], _args: tuple[object, ...], _named: dict[str, object], *, key: str
) -> tuple[Any, str]:
    del key  # what the cache tells answers apart by
    return _ask(_reader(), _question, _args, _named)


def _has_rows(told: tuple[Any, str]) -> bool:
    """Say whether there is something: an old nothing would tell who has just begun that nothing comes."""
    return not isinstance(told[0], pa.Table) or told[0].num_rows > 0


_KEPT = Renewed(fresh_s=KEPT_S, given_s=GIVEN_S, wait_s=WAITED_S, most=64, worth=_has_rows)


def _told(question: Callable[..., Any], args: tuple[object, ...], named: dict[str, object]) -> tuple[Any, str]:
    told: tuple[Any, str] = _answer(question, args, named, key=_key(question, args, named))
    return told


def _key(question: Callable[..., Any], args: tuple[object, ...], named: dict[str, object]) -> str:
    return f"{api()} {question.__module__}.{question.__name__} {args} {named}"


def _now() -> datetime:
    return datetime.now(UTC)
