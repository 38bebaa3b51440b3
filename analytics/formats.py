"""Answers as JSON and CSV: one rule for the API, the command line and local files.

NULL is null; integers, decimals, HUGEINT and doubles are numbers, NaN and the infinities null; instants are ISO 8601 in
UTC with Z and microseconds, null when infinite or outside the years 1 to 9999, and so are dates; JSON columns are the
values they hold; BLOB is lower-case hex, UUID text; lists are arrays, structs and maps objects, whatever they hold;
types without a JSON form (intervals, bits, unions) are DuckDB's text.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Protocol

import duckdb
import orjson
import pyarrow as pa

Convert = Callable[[Any], Any]


#: One vector of DuckDB: turning more rows at once into text would keep other threads waiting for Python's lock.
BATCH_ROWS: Final = 2_048
#: Arrow writes a stream in parts of some bytes, 15 a batch of ten columns: each would take Python's lock by itself.
BUFFER_BYTES: Final = 256 * 1024
#: Whether a parsed question is run as it stands. A relation is planned when it is made and again when it runs: without
#: it a page's question takes 17 % less CPU, and takes Python's lock 65 times, not 84. `execute` plans once too, but
#: copies all rows before it gives the first. What runs it is not public: other versions have the relation.
PLANS_ONCE: Final = duckdb.__version__.startswith("2.0.")


class TooManyRowsError(Exception):
    """The answer has more rows than were allowed."""


class Sink(Protocol):
    """Where an answer is written to."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows of a query with DuckDB's types, which Arrow does not carry whole; `batches` may be read but once."""

    schema: pa.Schema
    types: Sequence[Any]  # duckdb's DuckDBPyType, one a column
    batches: Iterable[pa.RecordBatch]

    def write_json(self, sink: Sink) -> None:
        """Write one JSON array of objects, keys in column order."""
        names = unique(self.schema.names)
        before = b"["
        for batch in self.batches:
            if batch.num_rows:
                sink.write(before)
                sink.write(orjson.dumps([dict(zip(names, row, strict=True)) for row in self._rows(batch)])[1:-1])
                before = b","
        sink.write(b"[]" if before == b"[" else b"]")

    def write_csv(self, sink: Sink) -> None:
        """Write a header line and the rows as CSV: NULL is empty, nested values are JSON."""
        sink.write(_csv([unique(self.schema.names)]))
        for batch in self.batches:
            sink.write(_csv([_cell(value) for value in row] for row in self._rows(batch)))

    def write_arrow(self, sink: Sink) -> None:
        """Write the rows as an Arrow stream."""
        file = _File(sink)
        buffer = pa.BufferedOutputStream(pa.PythonFile(file, mode="w"), BUFFER_BYTES)
        with buffer, pa.ipc.new_stream(buffer, self.schema) as stream:
            try:
                for batch in self.batches:
                    stream.write_batch(batch)
            except BaseException:
                file.give_up()
                raise

    def json(self) -> bytes:
        """Return what `write_json` writes."""
        return _whole(self.write_json)

    def csv(self) -> bytes:
        """Return what `write_csv` writes."""
        return _whole(self.write_csv)

    def arrow(self) -> bytes:
        """Return what `write_arrow` writes."""
        return _whole(self.write_arrow)

    def _rows(self, batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
        columns = (_values(*column) for column in zip(batch.columns, self.types, strict=True))
        return zip(*columns, strict=True)


class _File(io.RawIOBase):
    """A sink as the file that pyarrow wants."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink: Sink | None = sink

    def give_up(self) -> None:
        """Take no more: what is closed after an error would still write, and its own error hide the first."""
        self._sink = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self._sink is not None:
            self._sink.write(bytes(data))
        return len(data)


def _whole(write: Callable[[Sink], None]) -> bytes:
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def stream(
    connection: duckdb.DuckDBPyConnection,
    sql: str | duckdb.Statement,
    params: Mapping[str, object] | None = None,
    *,
    max_rows: int | None = None,
) -> Answer:
    """Return the answer of one statement, whose rows come from the connection as they are read.

    Here and while they are read: raises duckdb.Error, and TooManyRowsError before more rows are held.
    """
    if PLANS_ONCE and not isinstance(sql, str) and (found := _run(connection, sql, params or {}, max_rows=max_rows)):
        return found
    relation = connection.sql(sql, params=dict(params or {}))
    if relation is None:  # a statement without rows
        return Answer(pa.schema([]), [], [])
    if any(map(_has_no_form, relation.types)):
        columns = zip(relation.columns, relation.types, strict=True)
        relation = relation.project(", ".join(_with_form(at, *column) for at, column in enumerate(columns, 1)))
    types = relation.types
    reader = relation.to_arrow_reader(BATCH_ROWS)
    return Answer(reader.schema, types, _batches(reader, max_rows=max_rows))


def _run(
    connection: duckdb.DuckDBPyConnection,
    statement: duckdb.Statement,
    params: Mapping[str, object],
    *,
    max_rows: int | None,
) -> Answer | None:
    """Return the answer of a SELECT as DuckDB gives it; None for other statements, and where a type has no form."""
    if statement.type != duckdb.StatementType.SELECT:
        return None
    result = connection._submit(statement.query, dict(params), "stream", BATCH_ROWS)  # noqa: SLF001 - see PLANS_ONCE
    types = [column[1] for column in result.description]
    if any(map(_has_no_form, types)):
        result.close()
        return None
    reader = result.arrow_reader()
    return Answer(reader.schema, types, _batches(reader, max_rows=max_rows))


def answer(connection: duckdb.DuckDBPyConnection, sql: str) -> Answer:
    """Return the answer of one statement with all its rows; raises duckdb.Error."""
    found = stream(connection, sql)
    return replace(found, batches=list(found.batches))


def _batches(reader: pa.RecordBatchReader, *, max_rows: int | None) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        for batch in reader:
            rows += batch.num_rows
            if max_rows is not None and rows > max_rows:
                raise TooManyRowsError(f"the answer has more than {max_rows} rows")
            yield batch
    except (OSError, pa.ArrowException) as error:  # what DuckDB raises comes through Arrow as one of these
        kind = duckdb.InterruptException if "INTERRUPT" in str(error) else duckdb.Error
        raise kind(str(error)) from error


#: Types that Arrow or JSON has no good form of: their text is sent.
AS_TEXT: Final = frozenset(
    {"interval", "bit", "time with time zone", "union", "uhugeint", "bignum", "variant", "geometry", "null"}
)
#: DuckDB's instants and the unit in which Arrow counts them since 1970.
INSTANTS: Final = {
    "timestamp": "us",
    "timestamp_s": "s",
    "timestamp_ms": "ms",
    "timestamp_ns": "ns",
    "timestamp with time zone": "us",
    "timestamptz_ns": "ns",
}
#: Unit -> what turns a count into microseconds: multiply, then divide.
MICROSECONDS: Final = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
#: How DuckDB writes infinity, plus and minus, whatever the unit.
INFINITE: Final = 2**63 - 1
EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - all instants here are UTC
EPOCH_DAY: Final = date(1970, 1, 1)


def _has_no_form(kind: Any) -> bool:
    return kind.id in AS_TEXT or any(_has_no_form(child) for child in _children(kind).values())


def _children(kind: Any) -> dict[str, Any]:
    if kind.id == "tuple":  # its parts have no names: Arrow's
        return {f"element{at}": child for at, (_, child) in enumerate(kind.children, 1)}
    if kind.id not in ("list", "array", "map", "struct"):
        return {}
    return {name: child for name, child in kind.children if not isinstance(child, int)}  # an array has its size


def _with_form(at: int, name: str, kind: Any) -> str:
    text = f"::{_formed(kind)}" if _has_no_form(kind) else ""
    return f"#{at}{text} as {_quoted(name)}"


def _formed(kind: Any) -> str:
    """Return the type with text in place of what has no form, so that what is around it keeps its own."""
    inner = {name: _formed(child) for name, child in _children(kind).items()}
    match kind.id:
        case "list":
            return f"{inner['child']}[]"
        case "array":
            return f"{inner['child']}[{dict(kind.children)['size']}]"
        case "map":
            return f"MAP({inner['key']}, {inner['value']})"
        case "struct":
            return f"STRUCT({', '.join(f'{_quoted(name)} {child}' for name, child in inner.items())})"
    return "VARCHAR" if _has_no_form(kind) else str(kind)


def _quoted(name: str) -> str:
    return f'"{name.replace(chr(34), chr(34) * 2)}"'


def unique(names: Sequence[str]) -> list[str]:
    """Return the names, later equal ones with a number: an object has each key once."""
    found: dict[str, None] = {}
    for name in names:
        number, candidate = 0, name
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found[candidate] = None
    return list(found)


def _values(column: pa.Array, kind: Any) -> Iterable[object]:
    """Return the values of a column, ready for orjson."""
    convert = _converter(kind)
    values: list[object] = column.cast(_counted(column.type)).to_pylist()
    return values if convert is None else (None if value is None else convert(value) for value in values)


def _counted(kind: pa.DataType) -> pa.DataType:
    """Return the type with numbers for instants and dates: Python's own do not reach as far as DuckDB's."""
    types = pa.types
    if types.is_timestamp(kind):
        return pa.int64()
    if types.is_date32(kind):
        return pa.int32()
    if types.is_map(kind):
        return pa.map_(_counted(kind.key_type), _counted(kind.item_type))
    if types.is_struct(kind):
        return pa.struct([field.with_type(_counted(field.type)) for field in kind])
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_counted(kind.value_type)), kind.list_size)
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_counted(kind.value_type)))
    return kind


def _converter(kind: Any) -> Convert | None:
    """Return what makes a value that is not null ready for orjson; None when it is so already."""
    children = _children(kind)
    if not children:
        return _CONVERTERS.get("json" if str(kind) == "JSON" else kind.id)  # its id is varchar
    inner = {name: _or_null(_converter(child)) for name, child in children.items()}
    if kind.id in ("struct", "tuple"):
        return lambda value: {name: convert(value[name]) for name, convert in inner.items()}
    if kind.id == "map":
        key, item = inner["key"], inner["value"]
        return lambda pairs: {_key(key(name)): item(value) for name, value in pairs}
    item = inner["child"]
    return lambda values: [item(value) for value in values]


def _or_null(convert: Convert | None) -> Convert:
    return lambda value: None if value is None else value if convert is None else convert(value)


def _key(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def instant(count: int, unit: str) -> datetime | None:
    """Return the instant that is so many units (s, ms, us, ns) from 1970, in UTC without saying so; None when infinite
    or outside the years 1 to 9999."""
    if abs(count) == INFINITE:
        return None
    times, by = MICROSECONDS[unit]
    try:
        return EPOCH + timedelta(microseconds=count * times // by)
    except OverflowError:
        return None


def day(count: int) -> date | None:
    """Return the day that is so many days from 1970; None when infinite or outside the years 1 to 9999."""
    try:
        return EPOCH_DAY + timedelta(days=count)
    except OverflowError:
        return None


def _moment(unit: str) -> Convert:
    def text(count: int) -> str | None:
        moment = instant(count, unit)
        return None if moment is None else moment.isoformat(timespec="microseconds") + "Z"

    return text


def _day(count: int) -> str | None:
    found = day(count)
    return None if found is None else found.isoformat()


def _number(value: Decimal) -> orjson.Fragment:
    return orjson.Fragment(format(value, "f"))


#: By DuckDB's type; every other type is ready as Arrow gives it. orjson writes NaN and the infinities as null.
_CONVERTERS: Final[dict[str, Convert]] = {
    "blob": bytes.hex,
    "json": orjson.Fragment,
    "hugeint": _number,
    "decimal": _number,
    "time": time.isoformat,
    "date": _day,
    **{kind: _moment(unit) for kind, unit in INSTANTS.items()},
}


def _cell(value: object) -> object:
    """Return what stands in a CSV cell."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict | orjson.Fragment):
        return orjson.dumps(value).decode()
    return value
