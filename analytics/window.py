"""The stretch of time, and optionally the route, that a question is asked about."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Window:
    """Requests that started from `from_ts` (inclusive) to `to_ts` (exclusive), both with a zone; route None is all."""

    from_ts: datetime
    to_ts: datetime
    route: str | None = None

    def span(self) -> dict[str, object]:
        """Return the named parameters of a question about time alone: from_ts, to_ts."""
        return {"from_ts": self.from_ts, "to_ts": self.to_ts}

    def params(self) -> dict[str, object]:
        """Return the named parameters of a question about requests: from_ts, to_ts, route."""
        return {**self.span(), "route": self.route}
