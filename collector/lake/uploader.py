"""Seals hours that are over to a store of objects: each file first, then the manifest that lists it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ..store.mirror import EPOCH, HOUR, REST, floored, local_sql, retained, within
from ..store.tables import Stored, tables
from .manifest import Lake, Manifest, Sealed

#: An hour is looked at again for so long: late spans, and roll-ups until they are packed.
SETTLED_AFTER: Final = timedelta(hours=25)
#: How far back of the hours that are over is looked, and every how many seconds: young hours change most.
LOOKS: Final = ((2 * HOUR, 60.0), (SETTLED_AFTER, 3600.0), (timedelta.max, 86_400.0))
#: Rows that are in memory at once, and a row group.
ROWS: Final = 30_000
#: Files between two manifests: what a crash makes to be written once more.
FILES: Final = 25


class Uploader:
    """Makes the listed files of one collector equal to its data file's hours that are over; used by one thread.

    A file's name holds its table, hour, collector and the fingerprint of its rows: written again after a crash it is
    the same. It counts from the manifest on that lists it; of an hour that changed, that is the new file.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, lake: Lake, *, seal_after: timedelta) -> None:
        self._connection = connection
        self._lake = lake
        self._seal_after = seal_after
        ((self._collector,),) = connection.execute("select collector_id from meta").fetchall()
        self._due_s = [0.0] * len(LOOKS)

    def tick(self, now: datetime) -> int:
        """Return how many files were sealed; raises QueryError and OSError, with the next tick as the remedy."""
        began = time.monotonic()
        due = [at for at, due_s in enumerate(self._due_s) if began >= due_s]
        if not due:
            return 0
        written = self._look(now, depth=LOOKS[due[-1]][0])
        ended = time.monotonic()
        for at in range(due[-1] + 1):  # what is nearer was looked at too
            self._due_s[at] = ended + max(LOOKS[at][1], REST * (ended - began) if at == due[-1] else 0)
        return written

    def _look(self, now: datetime, *, depth: timedelta) -> int:
        before = self._lake.manifests().get(self._collector) or Manifest(self._collector, 0, ())
        kept_from = EPOCH if self._lake.keep is None else now - self._lake.keep
        listed = {(one.table, one.hour): one for one in before.files if not _over(one, kept_from)}
        manifest, written = before, 0
        if len(listed) < len(before.files):
            manifest = self._list(manifest, listed)
        until = floored(now - self._seal_after, HOUR)
        start = max(floored(kept_from + HOUR, HOUR) if self._lake.keep else EPOCH, until - min(depth, until - EPOCH))
        for one in self._changed(listed, now, start, until):
            listed[one.table, one.hour] = one
            written += 1
            if written % FILES == 0:
                manifest = self._list(manifest, listed)
        if written % FILES:
            manifest = self._list(manifest, listed)
        self._tidy(manifest, keep={one.file for one in before.files})
        return written

    def _list(self, manifest: Manifest, listed: dict[tuple[str, str], Sealed]) -> Manifest:
        manifest = Manifest(self._collector, manifest.number + 1, tuple(listed.values()))
        self._lake.write(manifest)
        return manifest

    def _changed(
        self, listed: dict[tuple[str, str], Sealed], now: datetime, start: datetime, until: datetime
    ) -> Iterator[Sealed]:
        """Write and yield the files whose rows no listed file holds as they are."""
        for one in tables().values():
            for hour, fingerprint in self._fingerprints(one, start, until):
                known = listed.get((one.name, hour.isoformat() if hour else ""))
                if known is None:
                    yield self._sealed(one, hour, fingerprint)
                elif known.fingerprint != fingerprint and not self._settled(one, hour, now):
                    made = self._sealed(one, hour, fingerprint)
                    if not self._settled(one, hour, now):  # nor has retention begun with it meanwhile
                        yield made

    def _settled(self, one: Stored, hour: datetime | None, now: datetime) -> bool:
        """Return whether what is listed of an hour stays: it is old, or retention has ended rows of it here."""
        if hour is None:
            return False
        since = retained(self._connection, one)
        return hour < now - SETTLED_AFTER or (since is not None and hour < since)

    def _fingerprints(self, one: Stored, start: datetime, until: datetime) -> list[tuple[datetime | None, str]]:
        slice_ = "0" if one.time is None else f"epoch_us({one.time}) // 3600000000"
        inside = "true" if one.time is None else within(one, start, until)
        found = local_sql(self._connection, "local_slices", table=one.name, slice=slice_, within=inside).to_pylist()
        return sorted(
            (datetime.fromtimestamp(row["slice"] * 3600, UTC) if one.time else None, f"{row['n']}-{row['bits']:016x}")
            for row in found
        )

    def _sealed(self, one: Stored, hour: datetime | None, fingerprint: str) -> Sealed:
        named = f"{hour:%Y%m%dT%H}" if hour else "all"
        place = f"{one.name}/{named}-{fingerprint}-{self._collector}.parquet"
        end = None if hour is None else hour + HOUR
        cursor = self._connection.cursor()
        rows = 0
        try:
            batches = cursor.sql(f"from {one.name} where {within(one, hour, end)}").to_arrow_reader(ROWS)
            with self._lake.opened(place) as out, pq.ParquetWriter(out, batches.schema, compression="zstd") as file:
                for batch in batches:
                    file.write_table(pa.Table.from_batches([batch]))
                    rows += batch.num_rows
        finally:
            cursor.close()
        return Sealed(one.name, hour.isoformat() if hour else "", place, rows, self._lake.size(place), fingerprint)

    def _tidy(self, manifest: Manifest, *, keep: set[str]) -> None:
        """Delete what neither this manifest nor the one before lists: readers may still hold that one."""
        keep |= {one.file for one in manifest.files}
        for place in self._lake.places(self._collector):
            if place not in keep:
                self._lake.delete(place)
        self._lake.forget_manifests(self._collector, before=manifest.number - 10)


def _over(one: Sealed, kept_from: datetime) -> bool:
    """Return whether all rows of a file are older than the lake keeps them."""
    return bool(one.hour) and datetime.fromisoformat(one.hour) + HOUR <= kept_from
