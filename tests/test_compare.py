"""Two versions, flags or stretches of time are compared with intervals, and equals are seldom called different."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from tailbudget.analytics.compare import Change, Side, compare
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.resample import Sample, mean_difference, percentile_ratio
from tailbudget.analytics.window import Window
from tailbudget.app.cli import cli, run
from tailbudget.collector.land.database import open_database
from tailbudget.instrument.errors import UserError

from .spans import Row, database, later

WHOLE = Window(later(0), later(3600))
FILL = """
insert into requests by name
select 'r' || n as request_id, uuid() as trace_id, n as span_id, t as started, 'shop' as service, version,
    outcome,
    total_ms, total_ms as ttft_ms, 0 as network_ms, 0 as queue_ms, 0 as retrieval_ms, 0 as prompt_ms,
    0 as prefill_ms, total_ms as decode_ms, 0 as tools_ms, 0 as post_ms, 0 as other_ms, 1 as calls, 0 as tool_rounds,
    100 as input_tokens, cached_tokens, cost_usd, false as synthetic
from given
"""


def store(
    connection: duckdb.DuckDBPyConnection, *, start: datetime, slower: float = 1.0, dropped: float = 0.02
) -> None:
    """Store 2,000 requests over an hour; every other one is of version b, `slower` so much and dropped so often."""

    rng = np.random.default_rng(1)
    rows: list[Row] = []
    for n in range(2000):
        version = "ab"[n % 2]
        is_b = version == "b"
        rows.append(
            {
                "n": n,
                "t": start + timedelta(seconds=1.8 * n),
                "version": version,
                "outcome": "dropped" if rng.random() < (dropped if is_b else 0.02) else "ok",
                "total_ms": float(rng.lognormal(6, 0.4)) * (slower if is_b else 1),
                "cached_tokens": 50 if rng.random() < 0.4 else 0,
                "cost_usd": float(rng.lognormal(-6, 0.2)) * (0.8 if is_b else 1),
            }
        )
    connection.register("given", pa.Table.from_pylist(rows))
    connection.execute(FILL)
    connection.unregister("given")


def versions(**change: float) -> dict[str, Change]:
    """Return what changed from version a to version b, by measure."""
    connection = database()
    store(connection, start=later(0), **change)
    found = compare(ConnectionReader(connection), Side(WHOLE, "version", "a"), Side(WHOLE, "version", "b"))
    return {one.measure: one for one in found}


def called(found: dict[str, Change]) -> set[str]:
    return {name for name, one in found.items() if one.difference and one.difference.changed}


def test_what_did_not_change_is_not_called() -> None:
    assert called(versions()) == {"cost_usd"}


def test_a_slower_version_is_called_with_by_how_much() -> None:
    found = versions(slower=1.25)
    assert {"total_ms_p50", "total_ms_p95", "ttft_ms_p95"} <= called(found)
    p95 = found["total_ms_p95"]
    assert (p95.a_n, p95.b_n) == (1000, 1000)
    assert p95.difference
    assert p95.difference.low < 0.25 < p95.difference.high
    assert p95.difference.high - p95.difference.low < 0.3


def test_more_clients_that_leave_are_called_and_cheaper_answers_too() -> None:
    found = versions(dropped=0.08)
    assert called(found) == {"cost_usd", "drop_rate"}
    drops, cost = found["drop_rate"].difference, found["cost_usd"].difference
    assert drops
    assert cost
    assert drops.low < 0.06 < drops.high
    assert cost.low < -0.2 < cost.high


def test_stretches_of_time_are_compared_too() -> None:
    connection = database()
    store(connection, start=later(0))
    store(connection, start=later(7200), slower=1.6)
    after = Window(later(7200), later(10800))
    found = compare(ConnectionReader(connection), Side(WHOLE, "version", "b"), Side(after, "version", "b"))
    assert {"total_ms_p50", "total_ms_p95"} <= {
        one.measure for one in found if one.difference and one.difference.changed
    }


def test_an_attribute_of_the_span_tells_the_sides_apart() -> None:
    connection = database()
    store(connection, start=later(0), slower=1.5)
    connection.execute(
        """insert into spans_open by name
           select trace_id, span_id, 'chat' as name, 'SERVER' as kind, started,
               0 as start_ns, 1 as end_ns, 1 as duration_ns,
               'OK' as status, 1 as resource_id, 'stage' as role, '' as rule,
               json_object('flag.new-prompt', if(version = 'b', 'on', 'off')) as attrs
           from requests"""
    )
    sides = [Side(WHOLE, "flag.new-prompt", value) for value in ("off", "on")]
    found = {one.measure: one for one in compare(ConnectionReader(connection), *sides)}
    assert found["total_ms_p50"].a_n == 1000
    assert "total_ms_p50" in called(found)


def test_too_few_requests_are_told_not_judged() -> None:
    few = Sample(np.arange(50.0), np.ones(50))
    assert percentile_ratio(few, few, 0.95, paired=True) is None
    assert mean_difference(few, few, paired=True) is None
    found = compare(ConnectionReader(database()), Side(WHOLE), Side(WHOLE))
    assert all((one.a_n, one.difference) == (0, None) for one in found)


def test_neighbours_that_are_alike_do_not_make_the_interval_too_narrow() -> None:
    """Runs of 40 equal values: 2,000 of them say as much as 50; taken for 2,000, half would be called."""
    rng, called_different = np.random.default_rng(3), 0
    for _ in range(100):
        values = np.repeat(np.exp(rng.normal(0, 0.5, 100)), 40)
        a, b = (Sample(np.arange(2000.0) + 2000 * half, values[2000 * half : 2000 * half + 2000]) for half in (0, 1))
        difference = percentile_ratio(a, b, 0.5, paired=False)
        called_different += difference is not None and difference.changed
    assert called_different <= 12


def test_a_side_has_both_a_name_and_a_value() -> None:
    with pytest.raises(UserError, match="give both or neither"):
        Side(WHOLE, by="version")


def test_the_command_prints_an_object_a_measure(tmp_path: Path) -> None:
    connection = open_database(tmp_path)
    store(connection, start=datetime.now(UTC) - timedelta(minutes=70), slower=1.5)
    connection.close()
    arguments = ["compare", "version", "a", "b", "--data", str(tmp_path)]
    found = {row["measure"]: row for row in json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)}
    assert list(found["total_ms_p50"]) == ["measure", "a_n", "b_n", "a", "b", "change", "low", "high", "changed"]
    assert found["total_ms_p50"]["changed"] is True
    assert found["timeout_rate"]["changed"] is False
    assert "total_ms_p95" in CliRunner().invoke(cli, arguments).stdout
    assert "too few" in CliRunner().invoke(cli, ["compare", "version", "x", "y", "--data", str(tmp_path)]).stdout


def test_the_command_compares_a_time_with_a_baseline(tmp_path: Path) -> None:
    connection = open_database(tmp_path)
    store(connection, start=later(0))
    store(connection, start=later(3600), slower=1.6)
    connection.close()
    arguments = ["compare", "--from", "2026-03-01T13:00Z", "--to", "2026-03-01T14:00Z", "--data", str(tmp_path)]
    found = {row["measure"]: row for row in json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)}
    p95 = found["total_ms_p95"]
    assert (p95["a_n"], p95["b_n"], p95["changed"]) == (2000, 2000, True)
    assert p95["b"] > 1.2 * p95["a"]


@pytest.mark.parametrize("words", [[], ["version", "a"], ["--from", "2026-03-01T13:00Z"]])
def test_what_is_no_comparison_is_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", *words, "--data", str(tmp_path)]) == 1
    assert "expected BY A B, as in version 1.4.0 1.5.0, or --from and --to" in capsys.readouterr().err
