"""Moves hours that are over from the data file to Parquet, a slice at a time, so that landing never waits for long."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import duckdb

from ..land.transaction import transaction
from .parquet import ParquetFile
from .tables import SEALED_VIEWS, Bulk, columns, select_slice, statement
from .views import SEALED, create_views, quoted

log: Final = logging.getLogger(__name__)

#: Rows of one slice, which is what a tick writes and one row group of the file: 0.15-0.25 s and 30 MB of spans.
SLICE_ROWS: Final = 30_000
#: Rows of one file, which is what one transaction deletes.
FILE_ROWS: Final = 600_000
#: An hour is sealed so long after its end: the assembler, and most questions, find what is younger in the data file.
SEAL_AFTER: Final = timedelta(hours=1)
HOUR_US: Final = 3_600_000_000
SECOND_US: Final = 1_000_000

#: Number of rows and sum of their hashes.
Fingerprint = tuple[int, int]


@dataclass(slots=True)
class _Job:
    """One file on its way: where its slices end, and what the table held of those that are written."""

    bulk: Bulk
    file: ParquetFile
    name: str
    edges_us: list[int]  # one more than there are slices
    source: list[Fingerprint] = field(default_factory=list)

    @property
    def written(self) -> bool:
        """Whether no slice is left."""
        return len(self.source) == len(self.edges_us) - 1


class Sealer:
    """Seals through the connection that owns the data file; used by its one thread.

    A file counts from the transaction on that lists it, lets the view read it and deletes its rows from the table; one
    that a crash left behind is deleted by `delete_unlisted`.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        data: Path,
        *,
        seal_after: timedelta = SEAL_AFTER,
    ) -> None:
        self._connection = connection
        self._data = data
        self._seal_after = seal_after
        self._job: _Job | None = None
        ((self._collector_id,),) = connection.execute("select collector_id from meta").fetchall()

    def tick(self, now: datetime) -> bool:
        """Plan a file, write a slice of it or commit it; return whether there is more to do.

        Raises duckdb.Error and OSError with nothing changed: the next tick begins the file anew.
        """
        try:
            if self._job is None:
                self._job = self._plan(now)
                return self._job is not None
            if not self._job.written:
                self._write_slice(self._job)
                return True
            self._commit(self._job, now)
        except BaseException:
            self.abandon()
            raise
        self._job = None
        return True

    def abandon(self) -> None:
        """Let go of a file that is not committed; its rows are in the table."""
        job, self._job = self._job, None
        if job is not None:
            job.file.abandon()

    def _plan(self, now: datetime) -> _Job | None:
        until = (now - self._seal_after).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        for bulk in SEALED_VIEWS:
            counts = self._rows("counts", bulk, until_us=to_us(until))
            if not counts:
                continue
            hour_us = counts[0][0] // HOUR_US * HOUR_US
            path = self._free_path(bulk, hour_us)
            file = ParquetFile(path, columns(self._connection, bulk))
            return _Job(bulk, file, str(path.relative_to(self._data)), _edges_us(counts))
        return None

    def _free_path(self, bulk: Bulk, hour_us: int) -> Path:
        """Return a new name: what comes when its hour has a file already is late."""
        folder = self._data / SEALED / bulk.view
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        hour = datetime.fromtimestamp(hour_us / SECOND_US, UTC)
        stem = f"{hour:%Y%m%dT%H}-{self._collector_id}"
        if not (folder / f"{stem}.parquet").exists():
            return folder / f"{stem}.parquet"
        late = (folder / f"{stem}-late-{n}.parquet" for n in itertools.count(1))
        return next(path for path in late if not path.exists())

    def _write_slice(self, job: _Job) -> None:
        at = len(job.source)
        bounds = {"from_us": job.edges_us[at], "to_us": job.edges_us[at + 1]}
        read = self._fingerprint(job.bulk, **bounds)
        if read[0]:
            select = select_slice(
                job.bulk,
                columns(self._connection, job.bulk),
                sealed=self._sealed_before(job.bulk, **bounds),
                repeated=self._repeated(job.bulk, **bounds),
            )
            job.file.write(self._connection.cursor().sql(select, params=bounds).to_arrow_table())
        job.source.append(read)

    def _commit(self, job: _Job, now: datetime) -> None:
        nbytes = job.file.close()
        bounds = {"from_us": job.edges_us[0], "to_us": job.edges_us[-1]}
        with transaction(self._connection):
            if job.file.rows:
                self._list(job, now, nbytes=nbytes)
            found = self._fingerprint(job.bulk, **bounds)
            if found == (sum(n for n, _ in job.source), sum(total for _, total in job.source)):
                self._rows("delete", job.bulk, **bounds)
            elif job.file.rows:  # rows came meanwhile, or their trace waits to be assembled: exactly what was written
                written = statement("delete_written", job.bulk, file=quoted(job.name))
                self._connection.execute(written, bounds)
            create_views(self._connection, [job.bulk.view])
        if not job.file.rows:
            job.file.abandon()
        log.info("%s: %d rows sealed", job.name, job.file.rows)

    def _list(self, job: _Job, now: datetime, *, nbytes: int) -> None:
        spread = statement("spread", job.bulk, file=quoted(job.name))
        ((first_us, last_us),) = self._connection.execute(spread).fetchall()
        self._rows(
            "list",
            job.bulk,
            file=job.name,
            view=job.bulk.view,
            first_us=first_us,
            last_us=last_us,
            n=job.file.rows,
            bytes=nbytes,
            columns=list(columns(self._connection, job.bulk)),
            now=now,
        )

    def _fingerprint(self, bulk: Bulk, **bounds: int) -> Fingerprint:
        ((rows, total),) = self._rows("fingerprint", bulk, **bounds)
        return int(rows), int(total or 0)

    def _repeated(self, bulk: Bulk, **bounds: int) -> bool:
        """Whether a span stands twice in what is to be sealed."""
        return bulk.unique and bool(self._rows("repeated", bulk, **bounds))

    def _sealed_before(self, bulk: Bulk, **bounds: int) -> Sequence[str]:
        """Return the files that may hold a span of these bounds already."""
        return (
            [str(file) for (file,) in self._rows("overlapping", bulk, view=bulk.view, **bounds)] if bulk.unique else ()
        )

    def _rows(self, name: str, bulk: Bulk, **params: object) -> list[tuple[int, ...]]:
        rows: list[tuple[int, ...]] = self._connection.execute(statement(name, bulk), params).fetchall()
        return rows


def to_us(instant: datetime) -> int:
    """Return unix microseconds: instants cross into SQL as these, and back."""
    return round(instant.timestamp() * SECOND_US)


def _edges_us(counts: Sequence[tuple[int, ...]]) -> list[int]:
    """Return where slices begin and the last one ends, of at most SLICE_ROWS unless one second has more."""
    edges_us, in_slice, in_file = [counts[0][0]], 0, 0
    end_us = edges_us[0]
    for t_us, rows in counts:
        if in_file and in_file + rows > FILE_ROWS:
            break
        if in_slice and in_slice + rows > SLICE_ROWS:
            edges_us.append(t_us)
            in_slice = 0
        in_slice += rows
        in_file += rows
        end_us = t_us + SECOND_US
    return [*edges_us, end_us]


def delete_unlisted(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    """Delete what a crash left of files that were not committed, or not deleted."""
    listed = {file for (file,) in connection.execute("select file from sealed_files").fetchall()}
    for path in (data / SEALED).glob("*/*"):
        if str(path.relative_to(data)) not in listed:
            try:
                path.unlink()
                log.warning("%s was not among the sealed files and was deleted", path)
            except OSError as error:
                log.warning("%s is not among the sealed files and cannot be deleted: %s", path, error.strerror)
