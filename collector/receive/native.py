"""The decoder in C under content mode drop: the batches of `decode.py`, several times as fast.

`csrc/otlp.c` reads bodies and writes columns with the GIL released. Resources, of which a body has few and which come
again and again, are read here by the reference decoder and remembered. Raises ImportError where no compiler was.
"""

import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import orjson
import pyarrow as pa
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tailbudget.analytics.recognise import PROMOTED

from ..journal.record import SIGNALS, Signal
from . import _otlp
from .attributes import Attributes, ResourceRow
from .batches import (
    CONTENT_DROPPED,
    EVENTS,
    LINKS,
    LOGS,
    METRICS,
    RESOURCES,
    Batches,
    Health,
    LogBatches,
    MetricBatches,
    SpanBatches,
    spans_schema,
    table,
)
from .content import CONTENT_EVENTS, CONTENT_KEYS, KEPT_KEYS
from .points import BAD_BUCKETS
from .privacy import DROP

#: The tables that `batches.py` describes.
LAYOUT: Final = 2
if getattr(_otlp, "LAYOUT", 1) != LAYOUT:
    raise ImportError("the extension _otlp was built from other sources than these: build it anew (make venv)")

#: What `_otlp.decode` counts of each group, in its order.
REASONS: Final = ("accepted", "duplicate", "bad_id", "bad_link", CONTENT_DROPPED, BAD_BUCKETS)
#: Resources that are remembered; a fleet of more starts over.
REMEMBERED: Final = 4096


def _names(rows: tuple[str, ...], *, prefixes: bool) -> tuple[bytes, ...]:
    """Return the rows that end in `*`, without it, or those that do not."""
    return tuple(sorted(row.removesuffix("*").encode() for row in rows if row.endswith("*") is prefixes))


def make_rules(promoted: tuple[str, ...]) -> object:
    """Return the content tables and the promoted keys, which are sorted, as the extension wants them."""
    return _otlp.rules(
        _names(CONTENT_KEYS, prefixes=False),
        _names(CONTENT_KEYS, prefixes=True),
        tuple(sorted(key.encode() for key in KEPT_KEYS)),
        _names(CONTENT_EVENTS, prefixes=False),
        _names(CONTENT_EVENTS, prefixes=True),
        tuple(key.encode() for key in promoted),
        int.from_bytes(os.urandom(8), "big"),
        orjson.dumps(1e16) == b"1e+16",
    )


RULES: Final = make_rules(PROMOTED)


@dataclass(frozen=True, slots=True)
class _Known:
    row: ResourceRow
    health: Health
    scrubbed: bytes | None
    given: tuple[int, bytes | None, bytes | None]  # to the extension


@lru_cache(maxsize=REMEMBERED)
def _known(data: bytes) -> _Known:
    message = Resource.FromString(data)
    attributes = Attributes(content=DROP)
    resource_id = attributes.resource(message)
    scrubbed = message.SerializeToString() if attributes.scrubbed else None
    service = None if attributes.service is None else attributes.service.encode()
    return _Known(attributes.resources[resource_id], attributes.health, scrubbed, (resource_id, service, scrubbed))


@lru_cache(maxsize=256)
def _resource_table(rows: tuple[ResourceRow, ...]) -> pa.Table:
    return table(rows, RESOURCES)


def decode(
    signal: Signal, body: bytes, *, rules: object = RULES, promoted: tuple[str, ...] = PROMOTED
) -> Batches | None:
    """Return the batches of a body, or None for one that the reference decoder has to judge.

    That is one that is broken, or written as no encoder does: a message in two halves, groups, deep nesting.
    """
    groups = _otlp.survey(SIGNALS.index(signal), body)
    if groups is None:
        return None
    known = [_known(data) for data in groups]
    found = _otlp.decode(SIGNALS.index(signal), body, rules, [resource.given for resource in known])
    if found is None:
        return None
    _owner, tables, columns, rejected, counts, scrubbed = found
    health: Health = Counter()
    for resource, row in zip(known, counts, strict=True):
        health.update(resource.health)
        service = resource.row[1]
        health.update({(service, reason): n for reason, n in zip(REASONS, row, strict=True) if n})
    resources = _resource_table(tuple({resource.row[0]: resource.row for resource in known}.values()))
    common = {"resources": resources, "rejected": rejected, "health": health, "scrubbed": scrubbed}
    match signal:
        case "traces":
            schemas = (spans_schema(tuple(promoted[at] for at in columns)), EVENTS, LINKS)
            spans, events, links = map(_table, tables, schemas)
            return SpanBatches(spans=spans, events=events, links=links, **common)
        case "metrics":
            return MetricBatches(metrics=_table(tables[0], METRICS), **common)
        case "logs":
            return LogBatches(logs=_table(tables[0], LOGS), **common)


def _table(made: tuple[int, int], schema: pa.Schema) -> pa.Table:
    """Import the Arrow array at an address, which has so many rows."""
    address, rows = made
    if not rows:
        return _empty(schema)
    return pa.Table.from_batches([pa.RecordBatch._import_from_c(address, schema)])  # noqa: SLF001 - pyarrow's documented way


@lru_cache(maxsize=256)
def _empty(schema: pa.Schema) -> pa.Table:
    return schema.empty_table()
