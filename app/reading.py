"""Where a command's answers come from: the running collector, else straight from data folders, or several of both."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tailbudget.analytics.reader import ApiReader, ConnectionReader, QueryError, Reader
from tailbudget.collector.offline import open_offline
from tailbudget.collector.several import SeveralReader

from .elsewhere import elsewhere
from .options import Sources

DEFAULT_API: Final = "http://127.0.0.1:4320"
DEFAULT_DATA: Final = Path(".tailbudget")
#: Longer than the API's default: nobody waits at a page.
TIMEOUT_S: Final = 300


@contextmanager
def open_reader(*, api: str | None, data: Sources) -> Iterator[Reader]:
    """Give a reader: without `data` the collector at `api`, or ./.tailbudget when none runs; raises QueryError."""
    if (other := elsewhere()) is not None:
        yield other.open()
        return
    named = sources(data)
    if len(named) > 1:
        with SeveralReader(named) as several:
            yield several
        return
    if named and isinstance(named[0], str):
        yield ApiReader(named[0], timeout_s=TIMEOUT_S)
        return
    if not named and (reader := _running(api)) is not None:
        yield reader
        return
    with open_offline(Path(named[0]) if named else DEFAULT_DATA) as connection:
        yield ConnectionReader(connection)


def sources(data: Sources) -> Sequence[Path | str]:
    """Return what was named as a list, empty when nothing was."""
    return [] if data is None else [data] if isinstance(data, Path) else data


def _running(api: str | None) -> Reader | None:
    reader = ApiReader(api or DEFAULT_API, timeout_s=TIMEOUT_S)
    try:
        reader.query("select 1")
    except QueryError as error:
        if api or not error.unreachable or not DEFAULT_DATA.exists():
            raise
        return None
    return reader
