"""How long a store keeps rows: as its address says, else as the collector does that makes a table."""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from tailbudget.analytics.window import length
from tailbudget.instrument.errors import UserError

from ..seal.retention import Keep
from .tables import tables, ttl

log: Final = logging.getLogger(__name__)
#: Parameter of an address -> the rows that it is about, as `Keep` names them.
NAMES: Final = {"keep_spans": "spans", "keep_requests": "requests", "keep_rollups": "rollups"}
_TTL: Final = re.compile(r"toIntervalSecond\((\d+)\)")


def said(url: str) -> Mapping[str, timedelta]:
    """Return, by kind of rows, how long an address says that they are kept; raises UserError for another parameter."""
    found = {}
    for name, text in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        try:
            found[NAMES[name]] = length(text)
        except (KeyError, ValueError):
            raise UserError(
                f"{name}={text!r} in the address of a ClickHouse: expected {', '.join(NAMES)} with a length such as 90d"
            ) from None
    return found


def wanted(keep: Keep, url: str) -> Keep:
    """Return how long a table that is made now keeps its rows."""
    return replace(keep, **said(url))  # type: ignore[arg-type]  # each is a length of time


def settle(client: Any, keep: Keep, url: str) -> Mapping[str, timedelta]:
    """Make the store keep rows as long as the address says; return, by table, how long it keeps them.

    What the address does not say stays as it is: the rows are other collectors' too.
    """
    kept, explicit, other = _kept(client), said(url), {}
    for one in tables().values():
        if one.kept is None or (found := kept.get(one.name)) == (asked := one.kept.length(wanted(keep, url))):
            continue
        if one.kept.kind in explicit:
            client.command(f"ALTER TABLE {one.table} MODIFY {ttl(one.kept, asked)}")
            log.info("the store keeps %s for %s from now on, for %s until now", one.name, asked, found)
            kept[one.name] = asked
        else:
            other[one.kept.kind] = f"{found}, not {asked} as this collector does"
    for kind, lengths in other.items():
        log.warning("the store keeps %s for %s: `keep_%s=...` in --store changes that", kind, lengths, kind)
    return kept


def _kept(client: Any) -> dict[str, timedelta]:
    """Return how long each table of the store that ends its rows keeps them."""
    listed = "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()"
    rows = client.query_arrow(listed, use_strings=True).to_pylist()
    found = {row["name"]: match for row in rows if (match := _TTL.search(row["engine_full"]))}
    return {name: timedelta(seconds=int(found[one.table][1])) for name, one in tables().items() if one.table in found}
