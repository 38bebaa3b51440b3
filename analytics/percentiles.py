"""Percentiles of any window: exact where its requests are stored and not too many, else from the roll-up, and which."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import pyarrow as pa

from tailbudget.instrument.errors import UserError

from .breakdown import REQUEST_MEASURES
from .questions import ask
from .reader import Reader
from .window import Window

#: Requests of a window that are looked at one by one: a day at 58 a second.
EXACT_ROWS: Final = 5_000_000
#: What the roll-up tells apart, and what else a request has.
ROLLUP_FILTERS: Final = ("service", "route", "model", "tenant", "outcome")
FILTERS: Final = (*ROLLUP_FILTERS, "version", "region", "prompt_bucket")


def percentiles(
    reader: Reader,
    window: Window,
    *,
    measure: str = "total_ms",
    where: Mapping[str, str] = {},
    exact_rows: int = EXACT_ROWS,
) -> pa.Table:
    """Return one row: n, mean_ms, p50_ms, p95_ms, p99_ms, source (`exact` or `roll-up`), reason.

    `where` holds values by the names of FILTERS. The roll-up is within 1 % of the value of the same rank; it serves
    windows of more than `exact_rows` requests and those whose requests are not stored any more. Raises UserError for
    an unknown measure or filter, and for one that the roll-up lacks where only the roll-up could answer: it names the
    longest window that is exact.
    """
    _check(measure, where)
    (stored,) = ask(reader, "stored_requests", {**window.span(), "rows": exact_rows}).to_pylist()
    reason = _why_rolled_up(window, stored, exact_rows)
    wanted = dict.fromkeys(FILTERS) | window.only() | dict(where)
    if reason is None:
        answer = ask(reader, "exact_percentiles", {**window.span(), **wanted, "measure": measure})
        return _told(answer, "exact", f"{stored['n']:,} requests, each looked at")
    lacking = [name for name in where if name not in ROLLUP_FILTERS]
    if lacking:
        since = max(filter(None, (stored["exact_after"], stored["oldest"])), default=window.to_ts)
        raise UserError(
            f"the window cannot be filtered by {lacking[0]}: {reason}, and the roll-up tells apart only "
            f"{', '.join(ROLLUP_FILTERS)}; ask from {since:%Y-%m-%d %H:%M:%S} UTC on, the longest window that is exact"
        )
    rolled = {name: wanted[name] for name in ROLLUP_FILTERS}
    return _told(ask(reader, "rollup_percentiles", {**window.span(), **rolled, "measure": measure}), "roll-up", reason)


def _check(measure: str, where: Mapping[str, str]) -> None:
    if measure not in REQUEST_MEASURES:
        raise UserError(f"unknown measure {measure!r}: expected one of {', '.join(REQUEST_MEASURES)}")
    for name in where:
        if name not in FILTERS:
            raise UserError(f"unknown filter {name!r}: expected one of {', '.join(FILTERS)}")


def _why_rolled_up(window: Window, stored: Mapping[str, object], exact_rows: int) -> str | None:
    """Return why the requests themselves cannot answer, None when they can."""
    n, oldest, oldest_rollup = stored["n"], stored["oldest"], stored["oldest_rollup"]
    if isinstance(n, int) and n > exact_rows:
        return f"it holds {n:,} requests, more than {exact_rows:,}"
    if not isinstance(oldest_rollup, datetime) or oldest_rollup >= window.to_ts:
        return None
    kept_since = oldest if isinstance(oldest, datetime) else window.to_ts
    if max(window.from_ts, oldest_rollup) < kept_since.replace(second=0, microsecond=0):
        return f"requests before {kept_since:%Y-%m-%d %H:%M:%S} UTC are not stored any more"
    return None


def _told(answer: pa.Table, source: str, reason: str) -> pa.Table:
    return answer.append_column("source", pa.array([source])).append_column("reason", pa.array([reason]))
