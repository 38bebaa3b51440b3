"""Inserts decoded spans through statements that are planned once for each set of attributes that bodies bring."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

import duckdb
import pyarrow as pa

from tailbudget.analytics.recognise import span_select

from ..receive.batches import EVENTS, SPANS, spans_schema

#: DuckDB takes 1.8 us for a span of one chunk of 65,536, 3.3 us for one of 128 chunks. Chunks of this many rows cost no
#: more than one, and the copy that joins bodies holds 2 MB at a time, not 30 MB.
CHUNK_ROWS: Final = 4096
#: Sets of attributes whose statement is kept, 1 MB each: those of the bodies that land together.
KEPT: Final = 8


class Feed:
    """What SQL reads under one name: `rows`, whatever they are at that time.

    A statement that is prepared holds on to the object that was registered then: to register another table under its
    name would let it read the old one again.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self.rows: pa.Table | pa.RecordBatchReader | None = None

    def __arrow_c_schema__(self) -> object:
        """Return the schema of all that will be read."""
        return self._schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows as a stream. Raises RuntimeError without any."""
        if self.rows is None:
            raise RuntimeError("rows were read that nobody gave")
        return self.rows.__arrow_c_stream__(requested_schema)


@dataclass(frozen=True, slots=True)
class _Prepared:
    name: str
    spans: Feed
    events: Feed


class SpanInserts:
    """Used by the one thread that lands: to parse and plan the statement takes 5 ms, as long as landing 3,000 spans."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._prepared: OrderedDict[tuple[tuple[str, ...], bool], _Prepared] = OrderedDict()
        self._numbers = count(1)

    def run(self, parts: Sequence[pa.Table], events: pa.Table) -> None:
        """Insert the spans of all parts; `events` are theirs, as `joined` returns them. Raises duckdb.Error."""
        keys = tuple(sorted({name for part in parts for name in part.schema.names[len(SPANS) :]}))
        statement = self._statement(keys, with_events=events.num_rows > 0)
        statement.spans.rows, statement.events.rows = _streamed(spans_schema(keys), parts), events
        try:
            self._register(statement)  # it may be planned anew, by the names of what it reads
            ((inserted,),) = self._connection.execute(f"execute {statement.name}").fetchall()
        finally:
            statement.spans.rows = statement.events.rows = None
        self._connection.unregister("batch_spans")
        self._connection.unregister("batch_events")
        if inserted != (given := sum(part.num_rows for part in parts)):
            raise duckdb.InternalException(f"{inserted} spans were inserted of {given}")

    def _statement(self, keys: tuple[str, ...], *, with_events: bool) -> _Prepared:
        kept = self._prepared.get((keys, with_events))
        if kept is None:
            kept = self._prepare(keys, with_events=with_events)
            self._prepared[keys, with_events] = kept
            if len(self._prepared) > KEPT:
                _, oldest = self._prepared.popitem(last=False)
                self._connection.execute(f"deallocate {oldest.name}")
        self._prepared.move_to_end((keys, with_events))
        return kept

    def _prepare(self, keys: tuple[str, ...], *, with_events: bool) -> _Prepared:
        name = f"insert_spans_{next(self._numbers)}"
        made = _Prepared(name, Feed(_typed(spans_schema(keys))), Feed(_typed(EVENTS)))
        self._register(made)
        select = span_select(frozenset(keys), events=with_events)
        self._connection.execute(f"prepare {name} as insert into spans_open by name {select}")
        return made

    def _register(self, statement: _Prepared) -> None:
        self._connection.register("batch_spans", statement.spans)
        self._connection.register("batch_events", statement.events)


def joined(parts: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all parts in one chunk, `attrs` known to be JSON."""
    whole = pa.concat_tables(parts, promote_options="default").combine_chunks()
    at = whole.schema.get_field_index("attrs")
    chunks = [pa.ExtensionArray.from_storage(pa.json_(), chunk) for chunk in whole["attrs"].chunks]
    return whole.set_column(at, pa.field("attrs", pa.json_()), pa.chunked_array(chunks, pa.json_()))


def _streamed(schema: pa.Schema, parts: Sequence[pa.Table]) -> pa.RecordBatchReader:
    """Return a reader, to be read once, of the rows of all parts in chunks of CHUNK_ROWS or a little more."""
    empty = schema.empty_table()

    def chunks() -> Iterator[pa.RecordBatch]:
        group: list[pa.Table] = [empty]
        rows = 0
        for part in parts:
            group.append(part)
            rows += part.num_rows
            if rows >= CHUNK_ROWS:
                yield from joined(group).to_batches()
                group, rows = [empty], 0
        yield from joined(group).to_batches()

    return pa.RecordBatchReader.from_batches(_typed(schema), chunks())


def _typed(schema: pa.Schema) -> pa.Schema:
    return joined([schema.empty_table()]).schema
