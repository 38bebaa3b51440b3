"""Questions about some requests alone that no column of theirs tells apart: an objective's, a service's, a hop's."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from .reader import QueryError, Reader
from .window import Window
from .written import written

TOUCHING: Final = Path(__file__).with_name("conditions") / "touching.sql"
COLUMNS: Final = {"version": "version = $value", "region": "region = $value"}
COMMENTS: Final = re.compile(r"\A(?:--[^\n]*\n|\s)*")
REQUESTS: Final = re.compile(r"\b(?:from|join) requests\b")


def touching(service: str, callee: str | None = None) -> str:
    """Return the `slice` of a Window for requests whose trace has a span of `service` (one that reaches `callee`)."""
    return written(COMMENTS.sub("", TOUCHING.read_text(encoding="utf-8")), {"service": service, "callee": callee})


def having(column: str, value: str) -> str:
    """Return the `slice` of a Window for requests with a value in one of COLUMNS; raises KeyError for another."""
    return written(COLUMNS[column], {"value": value})


class Sliced:
    """Reads as `reader` does, of those requests alone that meet the slices of `windows`, of which all have the same."""

    def __init__(self, reader: Reader, windows: Sequence[Window]) -> None:
        self._reader = reader
        ends = {"from_ts": min(one.from_ts for one in windows), "to_ts": max(one.to_ts for one in windows)}
        self._condition = written(windows[0].slice, ends)

    def query(self, sql: str, params: Mapping[str, object] = {}) -> pa.Table:
        """Return what the reader behind it does; raises QueryError for a question that has only the roll-up."""
        if not REQUESTS.search(sql):
            if "rollup_minute" in sql:
                raise QueryError("the roll-up does not tell these requests apart", hint="choose a shorter range")
            return self._reader.query(sql, params)
        rest = COMMENTS.sub("", sql)
        own = f"with requests as (  -- of these alone\n    from main.requests where {self._condition}\n)"
        steps = f",\n{rest[5:]}" if rest[:5].lower() == "with " else f"\n{rest}"
        return self._reader.query(sql.removesuffix(rest) + own + steps, params)
