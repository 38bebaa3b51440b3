"""Each diagnosis finds its trouble, is silent about the same traffic without it, and says what would mend it."""

import json
import re
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tailbudget.analytics.diagnoses import findings, rules
from tailbudget.analytics.reader import ConnectionReader, QueryError
from tailbudget.analytics.window import Window
from tailbudget.app import diagnose
from tailbudget.instrument.errors import UserError

from .diagnosed import CASES, Traffic, stored, traffic
from .spans import VIEWS, Row, database, later, one, rows

HOUR = Window(later(0), later(3600))
DOC = (Path(__file__).resolve().parents[1] / "docs" / "diagnoses.md").read_text(encoding="utf-8")


@cache
def wrong(rule: str) -> duckdb.DuckDBPyConnection:
    """Return a database with the trouble of a rule, to be read only."""
    return stored(traffic(rule, wrong=True))


def found(connection: duckdb.DuckDBPyConnection, **settings: Any) -> list[Row]:
    """Return what all rules find."""
    table = findings(ConnectionReader(connection), HOUR, **settings)
    return list(table.to_pylist())


def about(rule: str, sent: Traffic) -> list[Row]:
    """Return what one rule finds by its defaults."""
    return told(rule, stored(sent))


def told(rule: str, connection: duckdb.DuckDBPyConnection) -> list[Row]:
    query = f"from found_{rule}($from_ts::timestamptz, $to_ts::timestamptz)"
    table = rows(connection, query, HOUR.span())
    return [{**row, **{name: json.loads(row[name]) for name in ("scope", "evidence")}} for row in table]


@pytest.mark.parametrize("rule", CASES)
def test_trouble_is_found_with_its_evidence_and_what_mends_it(rule: str) -> None:
    row, *_ = told(rule, wrong(rule))
    assert later(0) < row["found_at"] <= later(3600)
    assert row["severity"] in ("page", "ticket")
    assert any(row["scope"].values())
    assert row["evidence"]
    assert len(row["advice"]) > 20


@pytest.mark.parametrize("rule", CASES)
def test_the_same_traffic_without_the_trouble_is_left_alone(rule: str) -> None:
    assert about(rule, traffic(rule, wrong=False)) == []


@pytest.mark.parametrize(
    "rule", ["cache_hit_low", "cold_start", "hol_blocking", "looks_fast_ends_late", "noisy_tenant", "tool_series"]
)
def test_a_finding_has_the_milliseconds_that_its_advice_saves(rule: str) -> None:
    row, *_ = (row for row in found(wrong(rule)) if row["rule"] == rule)
    assert row["saves_ms"] > 0
    assert f"{row['saves_ms']:.0f} ms" in row["advice"]
    assert (row["request_id"] is not None) == (rule in ("cold_start", "hol_blocking", "tool_series"))


#: Rule -> the traffic just below its sample size.
TOO_LITTLE: dict[str, dict[str, int]] = {
    "p95_over_2s": {"a_minute": 19},
    "looks_fast_ends_late": {"n": 49},
    "cache_hit_low": {"lookups": 99},
    "no_pooling": {"n": 29},
    "output_uncapped": {"n": 19},
    "tool_series": {"n": 4},
}


@pytest.mark.parametrize("rule", TOO_LITTLE)
def test_below_its_sample_size_a_diagnosis_is_silent(rule: str) -> None:
    assert about(rule, traffic(rule, wrong=True, **TOO_LITTLE[rule])) == []


def test_a_slow_route_names_the_stage_and_the_milliseconds() -> None:
    (row,) = told("p95_over_2s", wrong("p95_over_2s"))
    assert row["scope"] == {"service": "shop", "route": "/chat"}
    assert row["evidence"]["stage"] == "retrieval"
    assert row["evidence"]["saved_ms"] == pytest.approx(2500)
    assert "2500 ms" in row["advice"]
    assert row["found_at"] == later(300)


def test_what_connecting_costs_is_in_the_advice() -> None:
    (row,) = told("no_pooling", wrong("no_pooling"))
    assert row["evidence"]["setup_ms"] == pytest.approx(120)
    assert "httpx.Client" in row["advice"]


def test_a_breaker_names_the_errors_that_opened_it_and_pages_after_a_minute() -> None:
    (row,) = told("breaker_open", wrong("breaker_open"))
    assert (row["severity"], row["evidence"]["errors"]) == ("page", ["TimeoutError"])


def test_the_long_prompt_is_named() -> None:
    (row,) = told("hol_blocking", wrong("hol_blocking"))
    assert (row["evidence"]["input_tokens"], row["evidence"]["others"]) == (2000, 4)


def test_a_tool_that_is_asked_the_same_twice_is_found() -> None:
    sent = Traffic()
    trace, root = sent.ask(1)
    for start in (1000, 1300):
        attrs = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t", "slo.tool.call_hash": "same"}
        trace.add("execute_tool t", start, start + 200, under=root, attrs=attrs)
    (row,) = about("agent_loop", sent)
    assert (row["scope"]["tool"], row["evidence"]["saved_ms"]) == ("execute_tool t", 200)


def test_tools_of_which_one_needs_the_other_may_run_in_series() -> None:
    connection = stored(traffic("tool_series", wrong=True))
    connection.execute(
        """insert into span_links_open
           select trace_id, span_id, trace_id, span_id - 1, '{}', started from spans where name = 'execute_tool t1'"""
    )
    table = findings(ConnectionReader(connection), HOUR)
    assert "tool_series" not in table["rule"].to_pylist()


def test_a_setting_moves_a_threshold() -> None:
    sent = stored(traffic("dropped", wrong=False))
    assert found(sent) == []
    (row,) = found(sent, settings={"dropped": {"most_share": 0.005}})
    assert row["rule"] == "dropped"
    with pytest.raises(QueryError, match=r"most_share := 0\.02"):
        found(sent, settings={"dropped": {"share": 1}})
    with pytest.raises(UserError, match="unknown diagnosis 'nonsense': expected one of agent_loop"):
        found(sent, settings={"nonsense": {"share": 1}})


def test_a_route_narrows_the_findings() -> None:
    connection = wrong("dropped")
    for route, n in (("/chat", 1), ("/other", 0)):
        window = Window(later(0), later(3600), route=route)
        assert findings(ConnectionReader(connection), window).num_rows == n


def test_every_rule_has_a_view_a_question_a_case_and_a_line_in_the_docs_with_its_defaults() -> None:
    views = {path.stem.removeprefix("diag_"): path for path in VIEWS if path.stem.startswith("diag_")}
    assert set(views) == set(rules()) == set(CASES)
    for rule, path in views.items():
        declared = re.search(rf"macro found_{rule}\((.*?)\) as table", path.read_text(encoding="utf-8"), re.DOTALL)
        assert declared is not None
        for name, default in re.findall(r"(\w+) := ([\d.]+)", declared[1]):
            (line,) = re.findall(rf"^\| `{rule}` \|.*$", DOC, re.MULTILINE)
            assert f"`{name}` {default}" in line, (rule, name, default)


def test_a_view_looks_at_the_last_hour() -> None:
    connection = stored(traffic("dropped", wrong=True))
    assert rows(connection, "from diag_dropped") == []
    half_an_hour_ago = "time_bucket(interval 5 minutes, now()) - interval 30 minutes"  # whole buckets, as it was sent
    connection.execute(f"update requests set started = started + ({half_an_hour_ago} - $1)", [later(0)])
    (row,) = rows(connection, "from diag_dropped")
    assert (row["severity"], json.loads(row["scope"])["route"]) == ("page", "/chat")
    for rule in rules():
        text = one(connection, f"select sql from duckdb_views() where view_name = 'diag_{rule}'")["sql"]
        assert re.search(rf"found_{rule}\(\(?now\(\) - .*hour.*, now\(\)\)", text, re.IGNORECASE), text


def test_settings_are_read_from_the_command_line() -> None:
    wanted = {"queue_deep": {"most_waiting": 50.0, "timeout_s": 9.5}}
    assert diagnose.parse_settings(["queue_deep.most_waiting=50", "queue_deep.timeout_s=9.5"]) == wanted
    with pytest.raises(UserError, match=r"'queue_deep=5': expected RULE.SETTING=NUMBER"):
        diagnose.parse_settings(["queue_deep=5"])


def test_people_read_the_advice_below_what_was_found() -> None:
    table = findings(ConnectionReader(wrong("no_pooling")), HOUR)
    text = diagnose.report(table)
    assert "2026-03-01T12:05:00Z  ticket  no_pooling  service shop, peer engine:8000\n    make one client" in text
    (row, *_) = (row for row in json.loads(diagnose.to_json(table)) if row["rule"] == "no_pooling")
    assert row["evidence"]["n"] == 30
    assert row["found_at"] == "2026-03-01T12:05:00.000000Z"
    assert diagnose.report(table.slice(0, 0)).startswith("nothing found")


def test_nothing_is_found_in_an_empty_database() -> None:
    now = datetime.now(UTC)
    assert findings(ConnectionReader(database()), Window(now - timedelta(hours=1), now)).num_rows == 0
