"""The stretch of time, and optionally the route, tenant and model, that a question is asked about."""

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

#: Longer than any request.
MOST_MS: Final = 1e15
UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True)
class Window:
    """Requests that started from `from_ts` (inclusive) to `to_ts` (exclusive), both with a zone.

    Where `route`, `tenant` or `model` is given, only those that have it; a request's model is that of its answer. With
    `slice` only those that meet it where a `Sliced` reader asks: an SQL condition over `requests` which may use
    `$from_ts` and `$to_ts`.
    """

    from_ts: datetime
    to_ts: datetime
    route: str | None = None
    tenant: str | None = None
    model: str | None = None
    slice: str = ""

    def span(self) -> dict[str, object]:
        """Return the named parameters of a question about time alone: from_ts, to_ts."""
        return {"from_ts": self.from_ts, "to_ts": self.to_ts}

    def only(self) -> dict[str, object]:
        """Return the named parameters of the filter: route, tenant, model."""
        return {"route": self.route, "tenant": self.tenant, "model": self.model}

    def params(self) -> dict[str, object]:
        """Return the named parameters of a question about requests: those of `span` and of `only`."""
        return {**self.span(), **self.only()}


@dataclass(frozen=True)
class Box:
    """Requests that started from `from_ts` to `to_ts` and took from `lo_ms` to `hi_ms` (inf: any), ends exclusive."""

    from_ts: datetime
    to_ts: datetime
    lo_ms: float
    hi_ms: float

    def window(self, of: Window) -> Window:
        """Return the box's stretch of time, of the same filter as `of`."""
        return replace(of, from_ts=self.from_ts, to_ts=self.to_ts)

    def params(self) -> dict[str, object]:
        """Return the named parameters of a question about a box: box_from_ts, box_to_ts, lo_ms, hi_ms."""
        hi_ms = min(self.hi_ms, MOST_MS)  # JSON has no infinity
        return {"box_from_ts": self.from_ts, "box_to_ts": self.to_ts, "lo_ms": self.lo_ms, "hi_ms": hi_ms}


def length(text: str) -> timedelta:
    """Return the length of time that `90s`, `15m`, `1h` or `7d` names; raises ValueError for any other text."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if not found or int(found[1]) == 0:
        raise ValueError(f"{text!r} is no length of time: expected a number and s, m, h or d, as in 90s, 15m, 1h, 7d")
    return timedelta(**{UNITS[found[2]]: int(found[1])})
