"""What requests of real services were like: traces in the published forms of Azure, Mooncake and ShareGPT's lengths."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tailbudget.instrument.errors import UserError

SAMPLES: Final = Path(__file__).with_name("samples")
#: Names of the samples that are shipped.
SHIPPED: Final = {
    "azure-conversation": "azure_conversation.csv",
    "azure-code": "azure_code.csv",
    "mooncake": "mooncake.jsonl",
    "sharegpt": "sharegpt.csv",
}
#: Tokens that one of Mooncake's hashes stands for.
BLOCK_TOKENS: Final = 512


@dataclass(frozen=True, slots=True)
class Shape:
    """How long a request is; requests whose first `blocks` are equal share so many blocks of BLOCK_TOKENS tokens."""

    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Traced:
    """A request of a trace, `at_s` seconds after the first; None where the trace has lengths alone.

    `tenant` and `priority` are those of the trace's columns, where it has them.
    """

    at_s: float | None
    shape: Shape
    tenant: str = ""
    priority: int = 0


Row = Mapping[str, str]


def read(name: str) -> list[Traced]:
    """Return the requests of a shipped sample or of a file, in their order; raises UserError for what is neither."""
    path = SAMPLES / SHIPPED[name] if name in SHIPPED else Path(name)
    if not path.is_file():
        raise UserError(f"no trace {name!r}: expected a file, or one of {', '.join(SHIPPED)}")
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            found = _mooncake(lines) if path.suffix == ".jsonl" else _table(lines)
            return list(_from_first(list(found)))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"trace {str(path)!r} cannot be read ({error}): expected one of the forms {_forms()}"
        ) from error


def _from_first(found: list[Traced]) -> Iterator[Traced]:
    if not found:
        raise ValueError("it has no request")
    first_s = found[0].at_s
    for one in found:
        yield one if one.at_s is None or first_s is None else replace(one, at_s=one.at_s - first_s)


def _mooncake(lines: Iterable[str]) -> Iterator[Traced]:
    for line in lines:
        row = json.loads(line)
        shape = Shape(int(row["input_length"]), int(row["output_length"]), tuple(map(int, row["hash_ids"])))
        yield _whose(Traced(int(row["timestamp"]) / 1000, shape), row)


def _whose(one: Traced, row: Mapping[str, Any]) -> Traced:
    return replace(one, tenant=str(row.get("tenant") or ""), priority=int(row.get("priority") or 0))


def _table(lines: Iterable[str]) -> Iterator[Traced]:
    rows = csv.DictReader(lines)
    names = frozenset(rows.fieldnames or ())
    reads = next((read_row for needed, read_row in TABLES.items() if set(needed) <= names), None)
    if reads is None:
        raise ValueError(f"its columns are {', '.join(sorted(names))}")
    return (_whose(reads(row), row) for row in rows)


def _azure(row: Row) -> Traced:
    at = datetime.fromisoformat(row["TIMESTAMP"][:26])  # the seventh digit is more than Python's clock has
    return Traced(at.timestamp(), Shape(int(row["ContextTokens"]), int(row["GeneratedTokens"])))


def _sample(row: Row) -> Traced:
    return Traced(float(row["offset_s"]), Shape(int(row["context_tokens"]), int(row["generated_tokens"])))


def _lengths(row: Row) -> Traced:
    return Traced(None, Shape(int(row["context_tokens"]), int(row["generated_tokens"])))


def _etalon(row: Row) -> Traced:
    return Traced(None, Shape(int(row["num_prefill_tokens"]), int(row["num_decode_tokens"])))


#: Columns of a table -> how a row of it is read; the first that fits.
TABLES: Final[dict[tuple[str, ...], Callable[[Row], Traced]]] = {
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"): _azure,
    ("offset_s", "context_tokens", "generated_tokens"): _sample,
    ("context_tokens", "generated_tokens"): _lengths,
    ("num_prefill_tokens", "num_decode_tokens"): _etalon,
}


def _forms() -> str:
    tables = (",".join(names) for names in TABLES)
    return "; ".join((*tables, "JSON lines of timestamp, input_length, output_length, hash_ids"))
