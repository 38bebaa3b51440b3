"""What a request touches: services, engines, providers, stores, tools and other peers, and the hops between them."""

from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from .questions import ask
from .reader import Reader


def edges(reader: Reader) -> pa.Table:
    """Return one row a caller and callee of the last day before the newest span, the slowest first.

    Columns: caller, callee (kind:name), n (hops that the figures stand on), calls_per_request, p50_ms, p95_ms,
    failed_share, connect_ms, new_share, from_region, to_region, calls_per_request_before and p95_ms_before (of the week
    before), change (in words; null for none), hops (how often: n times one_in), traces (that the n hops are of), one_in
    (1 where every trace of the day was looked at, else of how many one was; null without a hop in the day).
    """
    return ask(reader, "map_edges")


def services(reader: Reader) -> pa.Table:
    """Return one row a service or engine that sends spans: kind, name, region, requests, p95_ms, spans, change."""
    return ask(reader, "map_services")


def nodes(services: pa.Table, edges: pa.Table) -> pa.Table:
    """Return the rows of the view `map_nodes`: the services, and what only their callers tell of, by kind and name.

    The view would ask for the hops again.
    """
    speak = {f"service:{name}" for name in services["name"].to_pylist()}
    silent = [row for row in edges.to_pylist() if row["callee"] not in speak]
    silent.sort(key=itemgetter("callee"))
    rows = services.to_pylist() + [_silent(*one) for one in groupby(silent, itemgetter("callee"))]
    rows.sort(key=lambda row: (row["kind"], row["name"]))
    return pa.Table.from_pylist(rows, schema=services.schema)


def _silent(callee: str, hops: Any) -> dict[str, Any]:
    kind, _, name = callee.partition(":")
    changes = {row["change"] for row in hops}
    alike = changes.pop() if len(changes) == 1 else None
    return {
        "kind": kind, "name": name, "requests": 0, "spans": 0, "change": alike if alike in ("new", "gone") else None
    }  # fmt: skip
