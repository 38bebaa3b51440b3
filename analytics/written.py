"""A question with its parameters written out, so that it can be pasted into any shell."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

import pyarrow as pa

from .reader import Reader


def written(sql: str, params: Mapping[str, object] = {}) -> str:
    """Return `sql` with each `$name` of `params` replaced by its value as a literal."""
    names = "|".join(sorted(map(re.escape, params), key=len, reverse=True))
    return re.sub(rf"\$({names})\b", lambda found: _literal(params[found[1]]), sql) if names else sql


def _literal(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_literal, value))}]"
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return "'" + text.replace("'", "''") + "'"


class Recorder:
    """Reads as `reader` does, and keeps in `asked` what it was asked, parameters written out."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.asked: list[str] = []

    def query(self, sql: str, params: Mapping[str, object] = {}) -> pa.Table:
        """Return what the reader behind it does."""
        self.asked.append(written(sql, params).strip().rstrip(";"))
        return self._reader.query(sql, params)
