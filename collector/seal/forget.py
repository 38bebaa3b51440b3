"""Takes rows out of sealed files."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from ..land.transaction import transaction
from .parquet import ParquetFile
from .sealer import SLICE_ROWS
from .tables import SEALED_VIEWS, Bulk, columns, fill, uuid_blobs
from .views import create_views, quoted


def forget_sealed(connection: duckdb.DuckDBPyConnection, data: Path, conditions: Mapping[str, str]) -> dict[str, int]:
    """Take the rows that meet the condition of their table out of sealed files; return how many by view.

    A file with such rows is written anew without them: one transaction lists the new file in its place, then the old
    file is deleted, so that a crash at any instant leaves all or nothing visible, and at worst a file that the next
    start deletes. To be called in the thread that owns the connection, while nothing is being sealed. Raises
    duckdb.Error and OSError with nothing changed.
    """
    written: list[tuple[str, Bulk, ParquetFile]] = []
    rows: Counter[str] = Counter()
    bulks = [(bulk, conditions[bulk.table]) for bulk in SEALED_VIEWS if bulk.table in conditions]
    try:
        written.extend(  # those before one that fails are in it then
            (old, bulk, _rewritten(connection, data, bulk, old, condition))
            for bulk, condition in bulks
            for old in _touched(connection, bulk, condition)
        )
        with transaction(connection):
            for old, bulk, file in written:
                rows[bulk.view] += _relist(connection, data, old, file)
            create_views(connection, sorted({bulk.view for _, bulk, _ in written}))
    except BaseException:
        for _, _, file in written:
            file.abandon()
        raise
    for old, _, file in written:
        (data / old).unlink()
        if not file.rows:
            file.abandon()
    return dict(rows)


def _touched(connection: duckdb.DuckDBPyConnection, bulk: Bulk, condition: str) -> list[str]:
    """Return the files that hold rows of what is forgotten."""
    listed = connection.execute(fill("listed"), {"view": bulk.view}).fetchall()
    words = {"table": bulk.table, "condition": condition}
    found = (fill("forgotten_in", file=quoted(file), **words) for (file,) in listed)
    return [file for (file,), query in zip(listed, found, strict=True) if connection.execute(query).fetchall()]


def _rewritten(connection: duckdb.DuckDBPyConnection, data: Path, bulk: Bulk, old: str, condition: str) -> ParquetFile:
    """Return the new file, on the disk, without the forgotten rows."""
    path = data / old
    new = (path.with_name(f"{path.stem}-kept-{n}.parquet") for n in itertools.count(1))
    file = ParquetFile(next(one for one in new if not one.exists()), columns(connection, bulk))
    try:
        for batch in _kept(connection, bulk, old, condition):
            file.write(batch)
        file.close()
    except BaseException:
        file.abandon()
        raise
    return file


def _kept(connection: duckdb.DuckDBPyConnection, bulk: Bulk, old: str, condition: str) -> Iterator[pa.Table]:
    present = set(connection.execute(f"describe from read_parquet({quoted(old)})").fetchnumpy()["column_name"])
    types = {name: kind for name, kind in columns(connection, bulk).items() if name in present}
    words = {"table": bulk.table, "condition": condition, "blobs": uuid_blobs(types, bulk), "time": bulk.time}
    query = fill("kept", file=quoted(old), **words)
    for batch in connection.sql(query).to_arrow_reader(SLICE_ROWS):
        yield pa.Table.from_batches([batch])


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
