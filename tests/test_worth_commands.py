"""`tailbudget cost` and `tailbudget feedback` print sums of what is stored, for people and for programs."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from tailbudget.app.cli import cli

from .seed import empty, seed
from .seed_more import furnish


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    with empty(data) as connection:
        connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
        furnish(connection, seed(connection, ended=datetime.now(UTC) - timedelta(minutes=1), minutes=3))
        connection.execute(
            "update calls set cost_usd = 0.001 where request_id in (from (select request_id from requests "
            "where tenant = 'acme'))"
        )
    return data


def said(*arguments: str) -> str:
    result = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_who_causes_cost_is_summed_with_hedges_and_energy_beside_it(folder: Path) -> None:
    found = json.loads(said("cost", "--data", str(folder), "--json"))
    assert set(found) == {"cost", "hedges", "energy"}
    first, *others = found["cost"]
    assert (first["value"], first["cost_usd"]) == ("acme", pytest.approx(0.001 * first["calls"]))
    assert {row["value"] for row in others} == {"globex", "initech"}
    assert all(row["unpriced_calls"] == row["calls"] > 0 for row in others)
    people = said("cost", "--data", str(folder))
    assert "acme" in people
    assert "Energy of each GPU" in people
    assert "Hedges" not in people  # none was sent


def test_what_a_second_costs_is_told_by_latency_and_by_who_left(folder: Path) -> None:
    found = json.loads(said("feedback", "--data", str(folder), "--json"))
    by_latency, waits = found["by_latency"], found["abandonment"]
    assert sum(row["n"] for row in by_latency) == waits[0]["waiting"] > 50
    assert sum(row["left_n"] for row in waits) > 0
    assert "who left before the next mark" in said("feedback", "--data", str(folder))


@pytest.mark.parametrize("command", ["cost", "feedback"])
def test_a_time_without_requests_says_how_to_widen_it(folder: Path, command: str) -> None:
    assert said(command, "--data", str(folder), "--route", "/none", "--since", "1s").startswith("nothing in this time")
