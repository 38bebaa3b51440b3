"""Reads arrivals from trace files as they are published: Azure's, Mooncake's, and CSV with columns of those names."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tailbudget.gpu_runtime.simulator import Arrival
from tailbudget.instrument.errors import UserError

#: Ten minutes of Azure's conversation service.
SAMPLES: Final = {"azure-conversation": Path(__file__).parent / "load" / "samples" / "azure_conversation.csv"}
#: What a row tells -> the names under which traces have it, times with the seconds in one unit (None: an instant).
TIMES: Final[Mapping[str, float | None]] = {"offset_s": 1.0, "timestamp": 0.001, "TIMESTAMP": None}
PROMPT: Final = ("context_tokens", "input_length", "ContextTokens")
OUTPUT: Final = ("generated_tokens", "output_length", "GeneratedTokens")
EXPECTED: Final = (
    "expected CSV with TIMESTAMP (or offset_s), ContextTokens, GeneratedTokens, or JSON lines with timestamp (ms), "
    "input_length, output_length, hash_ids; tenant and priority if there are any"
)


def read(name: str, *, rate: float = 1.0) -> list[Arrival]:
    """Return the arrivals of a file or of one of SAMPLES, the first at 0 s, `rate` times as dense as they are there.

    UserError names the line that is not understood.
    """
    path = SAMPLES.get(name) or Path(name)
    found: list[Arrival] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = map(json.loads, file) if path.suffix == ".jsonl" else csv.DictReader(file)
            found += _arrivals(rows, path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the trace {name!r} cannot be read ({error}): {EXPECTED}") from error
    if not found:
        raise UserError(f"the trace {name!r} has no request: {EXPECTED}")
    found.sort(key=lambda arrival: arrival.at_s)
    first_s = found[0].at_s
    return [replace(arrival, at_s=(arrival.at_s - first_s) / rate) for arrival in found]


def _arrivals(rows: Iterable[Mapping[str, Any]], path: Path) -> Iterator[Arrival]:
    line = 1
    try:
        for line, row in enumerate(rows, start=1):  # noqa: B007 - named in the error
            yield _arrival(row)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"row {line} of {path} is not understood ({error}): {EXPECTED}") from error


def _arrival(row: Mapping[str, Any]) -> Arrival:
    prompt, output = int(_first(row, PROMPT)), int(_first(row, OUTPUT))
    if prompt < 0 or output < 0:
        raise ValueError("a negative number of tokens")
    return Arrival(
        _at_s(row),
        # A request has a prompt and an answer: a trace's 0 is what was not counted.
        prompt_tokens=max(1, prompt),
        output_tokens=max(1, output),
        tenant=str(row.get("tenant") or ""),
        priority=int(row.get("priority") or 0),
        blocks=tuple(row.get("hash_ids") or ()),
    )


def _at_s(row: Mapping[str, Any]) -> float:
    name = next((name for name in TIMES if name in row), None)
    if name is None:
        raise ValueError(f"no {', '.join(TIMES)}")
    unit_s = TIMES[name]
    return datetime.fromisoformat(row[name]).timestamp() if unit_s is None else float(row[name]) * unit_s


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    found = next((row[name] for name in names if row.get(name) is not None), None)
    if found is None:
        raise ValueError(f"no {', '.join(names)}")
    return found
