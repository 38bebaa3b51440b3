"""Every question file is used by a function, every name that a function uses is a file, and each runs on the schema."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics import questions

from .spans import database

ROOT = Path(__file__).resolve().parents[1]
SAMPLES: dict[str, object] = {
    "span": "1 hour",
    "by": "tenant",
    "attribute": None,
    "measure": "total_ms",
    "slower_than_ms": None,
    "budgets_ms": [150.0, 1500.0],
    "factor": None,
    "max_tokens": None,
    "parallel": False,
    "value": "acme",
    "from_ts": "2026-03-01 12:00:00+00:00",
    "to_ts": "2026-03-01 12:15:00+00:00",
    "shown_from_ts": "2026-03-01 12:00:00+00:00",
    "baseline_from_ts": "2026-03-01 11:00:00+00:00",
    "baseline_to_ts": "2026-03-01 11:15:00+00:00",
    "now": "2026-03-01 12:15:00+00:00",
    "route": None,
    "bucket_s": 20,
    "box_from_ts": "2026-03-01 12:05:00+00:00",
    "box_to_ts": "2026-03-01 12:06:00+00:00",
    "lo_ms": 1000.0,
    "hi_ms": 5000.0,
    "bucket_stream_s": 5,
    "rows": 10,
    "request_id": "req-1",
    "run_id": "run-1",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "started": "2026-03-01 12:00:00+00:00",
    "until_ms": 1000.0,
    "stages": ["queue", "decode"],
    "baseline_s": 3600,
    "gap_s": 300,
    "window_s": 300,
    "min_buckets": 15,
    "threshold": 0.12,
    "part": 0,
    "parts": 1,
    "ranks": [0.5, 0.95],
    "p": 0.95,
    "instance": "127.0.0.1:8000",
    "series": "m|p|i|server|token",
    "opened": "2026-03-01 12:00:00+00:00",
    "since": "2026-03-01 12:00:00+00:00",
    "sagging": ["m|p|i|server|token"],
    **dict.fromkeys(("service", "model", "tenant", "outcome", "version", "region", "prompt_bucket")),
}


def _nodes() -> Iterator[ast.AST]:
    for part in ("analytics", "collector", "app"):
        for path in (ROOT / part).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def _texts(nodes: Iterable[ast.AST]) -> set[str]:
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_question_file_is_used() -> None:
    assert set(questions.names()) - _texts(_nodes()) == set()


def test_every_question_that_a_function_asks_has_a_file() -> None:
    calls = (node for node in _nodes() if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    asked = _texts(text for call in calls if call.func.id in ("ask", "sql") for text in call.args[:2])  # type: ignore[attr-defined]
    assert asked - set(questions.names()) == set()
    assert len(asked) > 10


@pytest.mark.parametrize("name", questions.names())
def test_a_question_says_first_what_one_row_is(name: str) -> None:
    assert questions.sql(name).startswith("-- One row")


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return database()


@pytest.mark.parametrize("name", questions.names())
def test_a_question_runs_against_the_schema(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    text = questions.sql(name)
    params = {word: SAMPLES[word] for word in set(re.findall(r"\$([a-z_]+)", text))}
    assert connection.cursor().sql(text, params=params).to_arrow_table().num_columns > 0


def test_a_question_has_the_steps_of_another_word_for_word() -> None:
    steps = questions.sql("sag").partition("with ")[2].partition("edge as (")[0].rstrip()
    assert f"\nwith\n{steps}\nbin as (" in questions.sql("token_rate")


def test_an_unknown_question_names_the_folder_and_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"no question 'nonsense'.*latency_summary"):
        questions.sql("nonsense")
