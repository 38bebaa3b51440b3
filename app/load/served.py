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
    params = {"run_id": run_id, "since": since}
    there, last_s = 0, time.monotonic()
    try:
        while there < expected and time.monotonic() - last_s < quiet_s:
            n = reader.query(f"select count(*) from ({_sql()})", params)[0][0].as_py()  # noqa: S608 - our own file
            if n > there:
                there, last_s = n, time.monotonic()
            if there < expected:
                time.sleep(POLL_S)
        return {row["request_id"]: row for row in reader.query(_sql(), params).to_pylist()}
    except QueryError:
        return {}


@cache
def _sql() -> str:
    lines = Path(__file__).with_name("served.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))
