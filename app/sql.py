"""`tailbudget sql`: one question to the running collector, else straight to a data folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from tailbudget.analytics.duck import connect
from tailbudget.analytics.formats import answer as answer_from
from tailbudget.analytics.reader import ARROW_STREAM, ApiReader, QueryError
from tailbudget.collector.offline import open_offline
from tailbudget.collector.several import SeveralReader

from .elsewhere import elsewhere
from .options import Sources
from .reading import DEFAULT_API, DEFAULT_DATA, sources
from .text import to_text

#: What the API is asked to send for each form.
ACCEPT = {"json": "application/json", "csv": "text/csv", "table": ARROW_STREAM}


def answer(query: str, *, form: str, api: str | None, data: Sources) -> str:
    """Return the rows of `query` as `json`, `csv` or `table`, ending in a newline.

    Without `data` a collector at `api` answers, or ./.tailbudget when none runs there; raises QueryError.
    """
    raw = _ask(query, form=form, api=api, data=sources(data))
    if form == "table":
        return to_text(pa.ipc.open_stream(raw).read_all())
    text = raw.decode()
    return text if text.endswith("\n") else text + "\n"


def _ask(query: str, *, form: str, api: str | None, data: Sequence[Path | str]) -> bytes:
    if (other := elsewhere()) is not None:
        with connect() as connection:
            connection.execute("set timezone = 'UTC'")
            connection.register("answered", other.open().query(query))
            return _formed(connection, "from answered", form)
    if len(data) == 1 and isinstance(data[0], str):
        api = data[0]
    if not data or api == data[0]:
        try:
            return ApiReader(api or DEFAULT_API, timeout_s=300).fetch(query, accept=ACCEPT[form])
        except QueryError as error:
            if api or not error.unreachable or not DEFAULT_DATA.exists():
                raise
    with _opened(query, data) as connection:
        try:
            return _formed(connection, query, form)
        except duckdb.Error as error:
            raise QueryError(str(error)) from error


def _formed(connection: duckdb.DuckDBPyConnection, query: str, form: str) -> bytes:
    found = answer_from(connection, query)
    return {"json": found.json, "csv": found.csv, "table": found.arrow}[form]()


@contextmanager
def _opened(query: str, data: Sequence[Path | str]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection that answers the query from a folder, or from several sources."""
    if len(data) > 1:
        with SeveralReader(data) as several, several.staged(query) as connection:
            yield connection
        return
    with open_offline(Path(data[0]) if data else DEFAULT_DATA) as connection:
        yield connection
