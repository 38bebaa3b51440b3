"""Takes rows out of sealed files: a file that holds some is written anew without them."""

import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from ..land.transaction import transaction
from .parquet import ParquetFile
from .sealer import SLICE_ROWS
from .tables import SEALED_VIEWS, Bulk, columns, fill, uuid_blobs
from .views import create_views, quoted

BULK_OF: Final = {bulk.table: bulk for bulk in SEALED_VIEWS}


def forget_sealed(connection: duckdb.DuckDBPyConnection, data: Path, conditions: Mapping[str, str]) -> dict[str, int]:
    """Delete from sealed files the rows of each table's condition, and return how many those were by view.

    `conditions` are SQL by table (`spans_open`), whose name stands for the file in them. The new files are on the disk
    before one transaction lists them in place of the old ones, which are deleted then: a crash at any instant leaves
    all or none of it visible, and at worst a file that the next start deletes. To be called in the thread that owns the
    connection, while no file is being sealed. Raises duckdb.Error and OSError with nothing changed.
    """
    written: list[tuple[str, Bulk, ParquetFile]] = []
    rows: dict[str, int] = {}
    try:
        for bulk, condition in ((BULK_OF[table], some) for table, some in conditions.items() if table in BULK_OF):
            for old in _touched(connection, bulk, condition):
                written.append((old, bulk, ParquetFile(_free_path(data / old), columns(connection, bulk))))
                _write(connection, written[-1][2], bulk, old, condition)
        with transaction(connection):
            for old, bulk, file in written:
                rows[bulk.view] = rows.get(bulk.view, 0) + _relist(connection, data, old, file)
            create_views(connection, sorted(rows))
    except BaseException:
        for _, _, file in written:
            file.abandon()
        raise
    for old, _, file in written:
        (data / old).unlink()
        if not file.rows:
            file.abandon()
    return rows


def _touched(connection: duckdb.DuckDBPyConnection, bulk: Bulk, condition: str) -> list[str]:
    """Return the files that hold rows to forget."""
    listed = connection.execute(fill("listed"), {"view": bulk.view}).fetchall()
    asked = {file: fill("forgotten_in", file=quoted(file), table=bulk.table, condition=condition) for (file,) in listed}
    return [file for file, query in asked.items() if connection.execute(query).fetchall()]


def _free_path(old: Path) -> Path:
    new = (old.with_name(f"{old.stem}-kept-{n}.parquet") for n in itertools.count(1))
    return next(path for path in new if not path.exists())


def _write(connection: duckdb.DuckDBPyConnection, file: ParquetFile, bulk: Bulk, old: str, condition: str) -> None:
    """Write what is kept, and put it on the disk."""
    for kept in _kept(connection, bulk, old, condition):
        file.write(kept)
    file.close()


def _kept(connection: duckdb.DuckDBPyConnection, bulk: Bulk, old: str, condition: str) -> Iterator[pa.Table]:
    present = connection.execute(f"describe from read_parquet({quoted(old)})").fetchnumpy()["column_name"]
    types = {name: kind for name, kind in columns(connection, bulk).items() if name in set(present)}
    blobs = uuid_blobs(types, bulk)
    query = fill("kept", file=quoted(old), table=bulk.table, condition=condition, blobs=blobs, time=bulk.time)
    for batch in connection.sql(query).to_arrow_reader(SLICE_ROWS):
        yield pa.Table.from_batches([batch])


def _relist(connection: duckdb.DuckDBPyConnection, data: Path, old: str, file: ParquetFile) -> int:
    """Put the new file in the old one's place, or nothing where no row is left; return how many rows went."""
    ((before,),) = connection.execute("select n from sealed_files where file = $1", [old]).fetchall()
    if file.rows:
        new = {"new": str(file.path.relative_to(data)), "n": file.rows, "bytes": file.path.stat().st_size}
        connection.execute(fill("relist"), {"old": old, "now": datetime.now(UTC), **new}).fetchall()
    else:
        connection.execute(fill("unlist"), {"file": old}).fetchall()
    return int(before) - file.rows
