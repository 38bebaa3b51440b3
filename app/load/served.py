"""What the collector knows of a run's requests: waited for, since a request's row comes some seconds after its end."""

import time
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from tailbudget.analytics.reader import QueryError, Reader

#: A request's row is promised within 5 s of its last span; a loaded machine is given more.
QUIET_S: Final = 8.0
POLL_S: Final = 0.5


def served(reader: Reader, run_id: str, *, since: datetime, expected: int, quiet_s: float = QUIET_S) -> dict[str, Any]:
    """Return the run's requests since an instant by request id, once `expected` are there or none came for `quiet_s`.

    Empty where the collector does not answer.
    """
    found: list[dict[str, Any]] = []
    last_s = time.monotonic()
    try:
        while len(found) < expected and time.monotonic() - last_s < quiet_s:
            rows = reader.query(_sql(), {"run_id": run_id, "since": since}).to_pylist()
            if len(rows) > len(found):
                last_s = time.monotonic()
            found = rows
            if len(found) < expected:
                time.sleep(POLL_S)
    except QueryError:
        return {}
    return {row["request_id"]: row for row in found}


@cache
def _sql() -> str:
    return Path(__file__).with_name("served.sql").read_text(encoding="utf-8")
