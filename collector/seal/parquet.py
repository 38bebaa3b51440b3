"""Writes one Parquet file slice by slice, under its final name, so that DuckDB reads back the types it gave."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.parquet as pq

#: Of a look-up by trace: one in a hundred row groups without it is read.
FALSE_POSITIVES: Final = 0.01


class ParquetFile:
    """A file on its way; `types` are DuckDB's types by column. Nothing of it counts before `close` returned."""

    def __init__(self, path: Path, types: Mapping[str, str]) -> None:
        self.path = path
        self.rows = 0
        self._types = types
        self._writer: pq.ParquetWriter | None = None

    def write(self, slice_: pa.Table) -> None:
        """Append the rows as one row group; UUID columns are 16 bytes, JSON columns text. Raises OSError."""
        import pyarrow.parquet as pq  # 9 MB that a collector holds from its first sealing on

        table = _typed(slice_, self._types)
        if self._writer is None:
            bloom = {"trace_id": {"ndv": max(table.num_rows, 100), "fpp": FALSE_POSITIVES}}
            self._writer = pq.ParquetWriter(
                self.path,
                table.schema,
                compression="zstd",
                bloom_filter_options=bloom if "trace_id" in table.column_names else None,
            )
        self._writer.write_table(table)
        pa.default_memory_pool().release_unused()  # else the process keeps a slice's memory until the next one
        self.rows += table.num_rows

    def close(self) -> int:
        """Put the file on the disk and return its size in bytes, 0 when it never had a row. Raises OSError."""
        if self._writer is None:
            return 0
        self._writer.close()
        for path in (self.path, self.path.parent):
            sync(path)
        return self.path.stat().st_size

    def abandon(self) -> None:
        """Take back what was written."""
        with suppress(OSError, pa.ArrowException):
            if self._writer is not None:
                self._writer.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Put a file or a folder's list of files on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _typed(table: pa.Table, types: Mapping[str, str]) -> pa.Table:
    """Return the table with UUID and JSON columns as Parquet knows them."""
    for at, name in enumerate(table.column_names):
        column = table.column(at)
        if types[name] == "UUID":
            kind, column = pa.uuid(), column.cast(pa.binary(16))
        elif types[name] == "JSON":
            kind = pa.json_()
        else:
            continue
        chunks = [pa.ExtensionArray.from_storage(kind, chunk) for chunk in column.chunks]
        table = table.set_column(at, name, pa.chunked_array(chunks, type=kind))
    return table
