"""Where a command's answers come from: the running collector, else straight from a data folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tailbudget.analytics.reader import ApiReader, ConnectionReader, QueryError, Reader
from tailbudget.collector.offline import open_offline

DEFAULT_API: Final = "http://127.0.0.1:4320"
DEFAULT_DATA: Final = Path(".tailbudget")
#: Longer than the API's default: nobody waits at a page.
TIMEOUT_S: Final = 300


@contextmanager
def open_reader(*, api: str | None, data: Path | None) -> Iterator[Reader]:
    """Give a reader: without `data` the collector at `api`, or ./.tailbudget when none runs; raises QueryError."""
    if data is None and (reader := _running(api)) is not None:
        yield reader
        return
    with open_offline(data or DEFAULT_DATA) as connection:
        yield ConnectionReader(connection)


def _running(api: str | None) -> Reader | None:
    reader = ApiReader(api or DEFAULT_API, timeout_s=TIMEOUT_S)
    try:
        reader.query("select 1")
    except QueryError as error:
        if api or not error.unreachable or not DEFAULT_DATA.exists():
            raise
        return None
    return reader
