"""`tailbudget diagnose`: what is wrong, newest first, and what would mend it."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from tailbudget.instrument.errors import UserError

from .text import iso


def parse_settings(texts: Iterable[str]) -> dict[str, dict[str, float]]:
    """Read `rule.setting=number`, several times. Raises UserError for any other text."""
    found: dict[str, dict[str, float]] = {}
    for text in texts:
        parts = re.fullmatch(r"(\w+)\.(\w+)=(-?\d+(?:\.\d+)?)", text.strip())
        if parts is None:
            raise UserError(f"{text!r}: expected RULE.SETTING=NUMBER, as in queue_deep.most_waiting=50")
        found.setdefault(parts[1], {})[parts[2]] = float(parts[3])
    return found


def to_json(findings: pa.Table) -> str:
    """Return one JSON array, an object a finding, instants as ISO 8601 in UTC with Z."""
    return json.dumps(list(_rows(findings)), indent=2) + "\n"


def report(findings: pa.Table) -> str:
    """Return what people read: a line a finding, its advice below."""
    lines = []
    for row in _rows(findings):
        scope = ", ".join(f"{name} {value}" for name, value in row["scope"].items() if value is not None)
        lines.append(f"{row['found_at'][:19]}Z  {row['severity']:<6}  {row['rule']}  {scope}\n    {row['advice']}\n")
    return "".join(lines) or "nothing found: what is judged needs its data, see docs/diagnoses.md\n"


def _rows(findings: pa.Table) -> Iterator[dict[str, Any]]:
    for row in findings.to_pylist():
        parsed = {name: json.loads(row[name]) for name in ("scope", "evidence")}
        yield {**row, **parsed, "found_at": iso(row["found_at"])}
