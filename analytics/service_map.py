"""What a request touches: services, engines, providers, stores, tools and other peers, and the hops between them."""

import pyarrow as pa

from .questions import ask
from .reader import Reader


def edges(reader: Reader) -> pa.Table:
    """Return one row a caller and callee of the last day before the newest span, the slowest first.

    Columns: caller, callee (kind:name), n (hops), calls_per_request, p50_ms, p95_ms, failed_share, connect_ms,
    new_share, from_region, to_region, calls_per_request_before and p95_ms_before (of the week before), change (in
    words; null for none).
    """
    return ask(reader, "map_edges")


def nodes(reader: Reader) -> pa.Table:
    """Return one row a node: kind, name, region, requests, p95_ms, spans, change (new, gone or null)."""
    return ask(reader, "map_nodes")
