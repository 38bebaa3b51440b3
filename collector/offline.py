"""Opens a data folder that no collector has open, counting in what its journal holds and no table yet."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import duckdb

from tailbudget.analytics.reader import DATABASE_NAME, UNREADABLE, FileReader, QueryError

from .assemble import Assembler
from .journal.record import Record, path_of, read, scan, segments
from .land.database import open_database
from .land.landing import Body, Landing
from .receive.decode import BadBodyError
from .receive.intake import decode
from .receive.privacy import AS_JOURNALED
from .seal.views import SEALED

log = logging.getLogger(__name__)
#: Nothing arrives any more: traces whose root never came are assembled too.
PATIENCE: Final = timedelta(minutes=1)
JOURNAL: Final = "journal"
#: Bodies in one transaction, so that a large journal needs no more memory than a collector has.
AT_ONCE: Final = 64


@contextmanager
def open_offline(data: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give the database of the folder, opened read-only; with a journal behind it, a copy into which that has landed.

    Raises QueryError without a database, or while a collector has it open. When the traces of the journal cannot be
    assembled, a warning says so and the rest is there.
    """
    with offline_folder(data) as folder:
        reader = FileReader(folder)
        yield reader.connection
        reader.connection.close()


@contextmanager
def offline_folder(data: Path) -> Iterator[Path]:
    """Give a folder whose database has all of `data`: itself, or a copy into which the journal has landed.

    Raises as `open_offline` does.
    """
    reader = FileReader(data)
    records = list(_unlanded(data / JOURNAL, reader))
    reader.connection.close()
    if not records:
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="tailbudget-") as folder:
        copy = Path(folder)
        for file in data.glob(f"{DATABASE_NAME}*"):
            shutil.copy(file, copy)
        (copy / SEALED).symlink_to(data.resolve() / SEALED)
        with open_database(copy) as connection:
            known = {row[0] for row in connection.execute("select digest from bodies").fetchall()}
            landing = Landing(connection)
            missing = [record for record in records if record.digest not in known]
            for at in range(0, len(missing), AT_ONCE):
                landing.land([body for record in missing[at : at + AT_ONCE] for body in _body(record)])
            _assemble(connection)
        yield copy


def _assemble(connection: duckdb.DuckDBPyConnection) -> None:
    """Assemble all that has landed, as many traces at a time as one tick takes."""
    try:
        assembler = Assembler(connection)
        while assembler.tick(datetime.now(UTC) + PATIENCE).unfinished:
            pass
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        log.warning("traces of the journal are missing in requests, calls and stages: assembly failed: %s", reason)


def _unlanded(journal: Path, reader: FileReader) -> Iterator[Record]:
    """Yield what the journal holds behind the position that has landed."""
    try:
        (landed,) = reader.query("select journal_segment, journal_offset from meta").to_pylist()
    except (QueryError, ValueError) as error:  # no such table, or not its one row
        raise QueryError(f"the database is none of a collector: {error}", hint=UNREADABLE) from error
    for segment in segments(journal) if journal.is_dir() else ():
        offset = landed["journal_offset"] if segment == landed["journal_segment"] else 0
        if segment >= landed["journal_segment"]:
            path = path_of(journal, segment)
            yield from (read(path, start=found.start) for found in scan(path, offset=offset))


def _body(record: Record) -> Iterator[Body]:
    try:
        batches = decode(record.signal, record.body(), content=AS_JOURNALED)
    except BadBodyError:
        return
    yield Body(digest=record.digest, batches=batches)
