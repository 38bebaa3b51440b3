"""Takes the rows of some traces out of tables and sealed files."""

import itertools
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from ..land.transaction import transaction
from .parquet import ParquetFile
from .sealer import SLICE_ROWS
from .tables import SEALED_VIEWS, Bulk, columns, fill, uuid_blobs
from .views import create_views, quoted

#: Views whose rows name a trace; metric points name none.
OF_TRACES: Final = tuple(bulk for bulk in SEALED_VIEWS if bulk.view != "metrics")


def forget_traces(connection: duckdb.DuckDBPyConnection, data: Path, trace_ids: Collection[str]) -> int:
    """Delete what spans, events, links and logs hold of these traces, and return how many rows that were.

    `trace_ids` are 32 hex digits or UUIDs. A sealed file with such rows is written anew without them: one transaction
    lists the new file in its place and deletes from the tables, then the old file is deleted, so that a crash at any
    instant leaves all or nothing visible, and at worst a file that the next start deletes. To be called in the thread
    that owns the connection, while nothing is being sealed. Raises duckdb.Error and OSError with nothing changed.
    """
    connection.execute("create or replace temp table forgotten as select unnest($1::varchar[])::uuid as trace_id", [
        list(trace_ids)
    ])  # fmt: skip
    written: list[tuple[str, Bulk, ParquetFile]] = []
    try:
        for bulk in OF_TRACES:
            written += [(old, bulk, _rewritten(connection, data, bulk, old)) for old in _touched(connection, bulk)]
        with transaction(connection):
            rows = sum(_forget_open(connection, bulk) for bulk in OF_TRACES)
            rows += sum(_relist(connection, data, old, file) for old, _, file in written)
            create_views(connection, sorted({bulk.view for _, bulk, _ in written}))
    except BaseException:
        for _, _, file in written:
            file.abandon()
        raise
    for old, _, file in written:
        (data / old).unlink()
        if not file.rows:
            file.abandon()
    return rows


def _touched(connection: duckdb.DuckDBPyConnection, bulk: Bulk) -> list[str]:
    """Return the files that hold rows of forgotten traces."""
    listed = connection.execute(fill("listed"), {"view": bulk.view}).fetchall()
    found = (fill("forgotten_in", file=quoted(file)) for (file,) in listed)
    return [file for (file,), query in zip(listed, found, strict=True) if connection.execute(query).fetchall()]


def _rewritten(connection: duckdb.DuckDBPyConnection, data: Path, bulk: Bulk, old: str) -> ParquetFile:
    """Return the new file, on the disk, without the forgotten rows."""
    path = data / old
    new = (path.with_name(f"{path.stem}-kept-{n}.parquet") for n in itertools.count(1))
    file = ParquetFile(next(one for one in new if not one.exists()), columns(connection, bulk))
    try:
        for batch in _kept(connection, bulk, old):
            file.write(batch)
        file.close()
    except BaseException:
        file.abandon()
        raise
    return file


def _kept(connection: duckdb.DuckDBPyConnection, bulk: Bulk, old: str) -> Iterator[pa.Table]:
    present = set(connection.execute(f"describe from read_parquet({quoted(old)})").fetchnumpy()["column_name"])
    types = {name: kind for name, kind in columns(connection, bulk).items() if name in present}
    query = fill("kept", file=quoted(old), blobs=uuid_blobs(types, bulk), time=bulk.time)
    for batch in connection.sql(query).to_arrow_reader(SLICE_ROWS):
        yield pa.Table.from_batches([batch])


def _forget_open(connection: duckdb.DuckDBPyConnection, bulk: Bulk) -> int:
    return _count(connection.execute(fill("forget", table=bulk.table)))


def _relist(connection: duckdb.DuckDBPyConnection, data: Path, old: str, file: ParquetFile) -> int:
    """Put the new file in the old one's place, or nothing where no row is left; return how many rows went."""
    ((before,),) = connection.execute("select n from sealed_files where file = $1", [old]).fetchall()
    if file.rows:
        params = {
            "old": old,
            "new": str(file.path.relative_to(data)),
            "n": file.rows,
            "bytes": file.path.stat().st_size,
            "now": datetime.now(UTC),
        }
        connection.execute(fill("relist"), params).fetchall()
    else:
        connection.execute(fill("unlist"), {"file": old}).fetchall()
    return int(before) - file.rows


def _count(cursor: Any) -> int:
    ((rows,),) = cursor.fetchall()
    return int(rows)
