"""One transaction of decoded bodies into the tables."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailbudget.instrument.vocabulary import ENGINE_METRICS, FEEDBACK_EVENT, GPU_METRICS

from ..journal.writer import Position
from ..receive.batches import ACCEPTED, Batches, LogBatches, MetricBatches, SpanBatches, are_of
from .rates import NAMES, DecodeRates, Last
from .seen import Keys, RecentKeys
from .span_inserts import SpanInserts, joined
from .transaction import transaction

SQL: Final = Path(__file__).parent / "sql"
#: A span is inserted once within this time and this many spans, whatever body brings it; later repeats are left to
#: assembly. 64 MB of keys, looked for at 0.7 us a span; 50 million took 400 MB and 1.7 us, and eight minutes of 29,000
#: spans a second 110 MB more than at the start. Senders try again for five minutes, 8.7 million spans of those.
SPANS_KEPT_S: Final = 3600.0
SPANS_KEPT: Final = 8_000_000

#: (service, signal, reason) -> spans, points, attributes or records
Health = Counter[tuple[str | None, str, str]]
HEALTH: Final = pa.schema(
    [("service", pa.string()), ("signal", pa.string()), ("reason", pa.string()), ("n", pa.int64())]
)
BODIES: Final = pa.schema([("digest", pa.binary()), ("spans", pa.int64())])
#: Columns of spans that tell of their traces and senders.
TOUCHED: Final = ["trace_id", "span_id", "parent_span_id", "start_ns", "end_ns", "service"]
#: Metric names and the columns of `gpu` that they fill, side by side.
GPU_COLUMNS: Final = {"names": list(GPU_METRICS), "columns": list(GPU_METRICS.values())}
ENGINE_COLUMNS: Final = {"names": list(ENGINE_METRICS), "columns": list(ENGINE_METRICS.values())}


@cache
def landing_sql(name: str) -> str:
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A decoded request body and the digest by which a repeat is known."""

    digest: bytes
    batches: Batches


class Landing:
    """Lands bodies through the connection that owns the data file; used by one thread."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._spans = RecentKeys(keep_s=SPANS_KEPT_S, limit=SPANS_KEPT)
        self._rates = DecodeRates(self._last_stored)
        self._inserts = SpanInserts(connection)
        kept = {"now": datetime.now(UTC), "kept": timedelta(seconds=SPANS_KEPT_S), "most": SPANS_KEPT}
        for name in ("sealed_span_keys", "recent_span_keys"):
            self._spans.add(connection.execute(landing_sql(name), kept).fetchnumpy()["key"])
        resources = connection.execute("select resource_id from resources").fetchnumpy()["resource_id"]
        self._resources: set[int] = set(resources.tolist())

    def land(
        self,
        bodies: Sequence[Body],
        *,
        now: datetime | None = None,
        position: Position | None = None,
        health: Health | None = None,
    ) -> Health:
        """Write the bodies in one transaction and return what it counted; `now` is when they arrived.

        Spans that landed within the last hour are left out. Raises duckdb.Error with nothing written and nothing
        remembered, so that the same bodies can be landed again.
        """
        arrived = {"now": now or datetime.now(UTC)}
        counted = Counter(health or {})
        traces = [(body, body.batches) for body in bodies if isinstance(body.batches, SpanBatches)]
        metrics = [body.batches for body in bodies if isinstance(body.batches, MetricBatches)]
        logs = [body.batches for body in bodies if isinstance(body.batches, LogBatches)]
        with transaction(self._connection):
            kept, keys = self._unseen([batches for _, batches in traces])
            self._land_resources([body.batches for body in bodies])
            if kept:
                self._land_spans(kept, arrived)
            if metrics:
                self._land_metrics(metrics, arrived)
            if logs:
                self._land_logs(logs, arrived)
            for signal, parts in (("traces", kept), ("metrics", metrics), ("logs", logs)):
                _count(counted, signal, parts)
            self._land_health(counted, arrived)
            spans = {id(body): batches.spans.num_rows for (body, _), batches in zip(traces, kept, strict=True)}
            self._land_bodies([(body.digest, spans.get(id(body), 0)) for body in bodies], arrived)
            if position is not None:
                self._connection.execute(
                    "update meta set journal_segment = $1, journal_offset = $2", [position.segment, position.offset]
                )
        self._spans.add(keys)
        self._rates.keep()
        self._resources.update(_ids(bodies))
        return counted

    @contextmanager
    def _batch(self, **tables: pa.Table) -> Iterator[None]:
        """Give SQL the tables under their names with the prefix `batch_`; after an error the rollback takes them."""
        for name, table in tables.items():
            self._connection.register(f"batch_{name}", table)
        yield
        for name in tables:
            self._connection.unregister(f"batch_{name}")

    def _unseen(self, batches: Sequence[SpanBatches]) -> tuple[list[SpanBatches], Keys]:
        """Return the batches without spans that landed before, and the keys of the rest."""
        if not batches:
            return [], np.array([], np.uint64)
        with self._batch(spans=pa.concat_tables(part.spans.select(["trace_id", "span_id"]) for part in batches)):
            keys = np.asarray(self._connection.execute(landing_sql("span_keys")).fetchnumpy()["key"], np.uint64)
        order, repeated_in_order = self._repeated(keys)
        repeated = np.empty_like(repeated_in_order)
        repeated[order] = repeated_in_order
        ends = np.cumsum([part.spans.num_rows for part in batches])
        kept = [
            _without(part, gone) if gone.any() else part
            for part, gone in zip(batches, np.split(repeated, ends[:-1]), strict=True)
        ]
        return kept, keys[order][~repeated_in_order]

    def _repeated(self, keys: Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return the order that sorts the keys and, in it, whether each has landed before or stands earlier in `keys`.

        Sorted keys are found in 0.08 us each, others in 0.35 us: their places lie side by side in memory.
        """
        order = np.argsort(keys)
        ranked = keys[order]
        again = ranked[1:] == ranked[:-1]
        if again.any():
            order = np.argsort(keys, kind="stable")  # the first of equals stays
        repeated = self._spans.known(ranked)
        repeated[1:] |= again
        return order, repeated

    def _land_resources(self, batches: Sequence[Batches]) -> None:
        new = pa.concat_tables(part.resources for part in batches) if batches else None
        if new is None or self._resources.issuperset(new["resource_id"].to_pylist()):
            return
        with self._batch(resources=new):
            self._connection.execute(landing_sql("resources"))

    def _land_spans(self, batches: Sequence[SpanBatches], arrived: dict[str, datetime]) -> None:
        parts = [part.spans for part in batches]
        tables = {name: joined([getattr(part, name) for part in batches]) for name in ("events", "links")}
        self._inserts.run(parts, tables["events"])
        touched = pa.concat_tables(part.select(TOUCHED) for part in parts).combine_chunks()
        self._land_lag("traces", touched["service"], touched["end_ns"], arrived)
        with self._batch(spans=touched, **tables):
            self._connection.execute(landing_sql("dirty"), arrived)
            for name in ("events", "links"):
                if tables[name].num_rows:
                    self._connection.execute(landing_sql(name))

    def _land_metrics(self, batches: Sequence[MetricBatches], arrived: dict[str, datetime]) -> None:
        points = pa.concat_tables(part.metrics for part in batches)
        resources = pa.concat_tables(part.resources for part in batches)
        rates = self._rates.bins(_with_instance(_named(points, NAMES), resources))
        self._land_lag("metrics", _services(points, resources), points["t_ns"], arrived)
        with self._batch(metrics=points):
            self._connection.execute(landing_sql("metrics"))
        for name, columns in (("gpu", GPU_COLUMNS), ("engine", ENGINE_COLUMNS)):
            samples = _named(points, columns["names"])
            if samples.num_rows:
                with self._batch(metrics=samples, resources=resources):
                    self._connection.execute(landing_sql(name), columns)
        if rates.num_rows:
            with self._batch(decode_rate=rates):
                self._connection.execute(landing_sql("decode_rate"))

    def _land_logs(self, batches: Sequence[LogBatches], arrived: dict[str, datetime]) -> None:
        logs = pa.concat_tables(part.logs for part in batches)
        self._land_lag("logs", logs["service"], pc.coalesce(logs["t_ns"], logs["observed_ns"]), arrived)
        with self._batch(logs=logs):
            self._connection.execute(landing_sql("logs"), arrived)
            self._connection.execute(landing_sql("live"), arrived)
            if FEEDBACK_EVENT in pc.unique(logs["event_name"]).to_pylist():
                self._connection.execute(landing_sql("feedback"), arrived)
                self._connection.execute(landing_sql("feedback_requests"), arrived)

    def _land_health(self, counted: Health, arrived: dict[str, datetime]) -> None:
        rows = [
            {"service": service, "signal": signal, "reason": reason, "n": n}
            for (service, signal, reason), n in counted.items()
        ]
        if rows:
            with self._batch(health=pa.Table.from_pylist(rows, schema=HEALTH)):
                self._connection.execute(landing_sql("health"), arrived)

    def _land_lag(
        self, signal: str, service: pa.ChunkedArray, t_ns: pa.ChunkedArray, arrived: dict[str, datetime]
    ) -> None:
        with self._batch(timed=pa.table({"service": service, "t_ns": t_ns})):
            self._connection.execute(landing_sql("lag"), {**arrived, "signal": signal})

    def _land_bodies(self, rows: Sequence[tuple[bytes, int]], arrived: dict[str, datetime]) -> None:
        digests, spans = [row[0] for row in rows], [row[1] for row in rows]
        with self._batch(bodies=pa.table([digests, spans], schema=BODIES)):
            self._connection.execute(landing_sql("bodies"), arrived)

    def _last_stored(self, counter: tuple[str, int, str]) -> Last | None:
        rows = self._connection.execute(landing_sql("last_point"), counter).fetchall()
        if not rows:
            rows = self._connection.execute(landing_sql("last_sealed_point"), counter).fetchall()
        return Last(*rows[0]) if rows else None


def _without(batches: SpanBatches, gone: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> SpanBatches:
    """Return the batches without the spans marked `gone`, their events and their links."""
    spans = batches.spans.filter(pa.array(~gone))
    tables = {}
    for name in ("events", "links"):
        table = getattr(batches, name)
        tables[name] = table.filter(pa.array(are_of(table, spans), pa.bool_()))
    health = batches.health.copy()
    services = Counter(batches.spans.filter(pa.array(gone))["service"].to_pylist())
    for service, n in services.items():
        health[service, ACCEPTED] -= n
        health[service, "duplicate"] += n
    return replace(batches, spans=spans, health=health, **tables)


def _count(counted: Health, signal: str, batches: Sequence[Batches]) -> None:
    for part in batches:
        for (service, reason), n in part.health.items():
            if n:
                counted[service, signal, reason] += n


def _ids(bodies: Sequence[Body]) -> Iterator[int]:
    for body in bodies:
        yield from body.batches.resources["resource_id"].to_pylist()


def _named(points: pa.Table, names: Sequence[str] | dict[str, str]) -> pa.Table:
    return points.filter(pc.is_in(points["name"], value_set=pa.array(list(names), pa.string())))


def _services(points: pa.Table, resources: pa.Table) -> pa.ChunkedArray:
    """Return the service of each point."""
    return resources["service"].take(pc.index_in(points["resource_id"], value_set=resources["resource_id"]))


def _with_instance(points: pa.Table, resources: pa.Table) -> list[dict[str, object]]:
    instances = dict(zip(resources["resource_id"].to_pylist(), resources["instance"].to_pylist(), strict=True))
    return [point | {"instance": instances.get(point["resource_id"])} for point in points.to_pylist()]
