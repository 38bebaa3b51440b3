"""`tailbudget capacity` plans from what was stored, or from what is given, and says what is missing."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tailbudget.app.cli import run
from tailbudget.collector.land.database import open_database

STEP = ["--step", "20,0.5,0.05"]
GIVEN = ["--mix", "300:60:3", "--mix", "1500:120", "--peak", "20"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 400 calls from two regions, and an engine that told its steps."""
    folder = Path(tmp_path_factory.mktemp("data"))
    connection = open_database(folder)
    now = datetime.now(UTC)
    connection.execute(
        "insert into calls by name select md5(n::varchar)::uuid as trace_id, n as span_id, "
        "$1 - to_seconds(n / 2) as started, if(n % 4 = 0, 'us', 'eu') as region, 'ok' as outcome, 1.0 as total_ms, "
        "'server' as split, [n]::ubigint[] as spans, 300 as input_tokens, 50 + n % 20 as output_tokens, "
        "512 as prompt_bucket from range(400) of_n(n)",
        [now],
    )
    connection.execute(
        "insert into engine by name select $1 - to_seconds(n) as t, 'box:8000' as instance, true as up, 40 as steps, "
        "20 + 0.5 * n + 0.05 * (n % 3) * 100 as step_ms, n + (n % 3) * 100 as batch_tokens, "
        "40 * (n % 3) * 100 as prompt_tokens from range(1, 40) of_n(n)",
        [now],
    )
    connection.close()
    return folder


def _asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert run(["capacity", *arguments, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_each_region_has_a_plan_from_its_calls_and_the_engines_steps(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eu, us = _asked(capsys, "--data", str(data), "--ttft", "500", "--price", "2", "--gpus", "8")
    assert (eu["demand"]["region"], us["demand"]["region"]) == ("eu", "us")
    step = [eu["replica"][f"{name}_ms"] for name in ("base", "stream", "prompt_token")]
    assert step == pytest.approx([20, 0.5, 0.05])
    assert eu["demand"]["peak_s"] == pytest.approx(1.5, rel=0.05)
    assert eu["gpu_hours_day"] == eu["replicas"] * 8 * 24
    assert eu["usd_day"] == 2 * eu["gpu_hours_day"]
    assert eu["at_peak"]["ttft_ms"] <= 500


def test_people_read_the_plan_in_sentences(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["capacity", "--data", str(data), "--ttft", "500"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("eu: a peak of 1.5")
    assert " needs 1 replica of at most " in lines[0]
    assert "24 GPU hours a day" in lines
    assert "while the only replica is away nobody is served" in lines
    assert "by prompt bucket" in lines


def test_what_is_given_needs_nothing_stored(capsys: pytest.CaptureFixture[str]) -> None:
    (sheet,) = _asked(capsys, *STEP, *GIVEN, "--ttft", "800", "--itl", "60", "--prefill-chunk", "512")
    assert sheet["replicas"] * sheet["highest_s"] >= 20 * 1.2
    assert [kind[0] for kind in sheet["demand"]["kinds"]] == [3, 1]
    # Beyond what a replica can do nothing is finite but how fast the queue grows.
    beyond = sheet["curve"][-1]
    assert (beyond["ttft_ms"], beyond["growth_s"] > 0) == (None, True)
    (fixed,) = _asked(capsys, *STEP, *GIVEN, "--ttft", "800", "--max-running", "4")
    assert fixed["replica"]["max_running"] == 4


def test_a_replica_that_is_away_says_how_the_queue_grows(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*STEP, "--mix", "300:60", "--peak", "7", "--ttft", "800", "--headroom", "0", "--max-running", "8"]
    assert run(["capacity", *arguments]) == 0
    assert "while one replica is away the queue grows by " in capsys.readouterr().out


def test_objectives_in_a_file_are_limits_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text("objectives:\n  - {name: chat, total: p99 < 9s, ttft: p95 < 800ms, model: p90 < 8s}\n")
    (sheet,) = _asked(capsys, *STEP, *GIVEN, "--slo", str(path))
    assert sheet["limits"] == {"ttft_ms": 800, "itl_ms": None, "final_ms": 8000, "share": 0.95}
    (sheet,) = _asked(capsys, *STEP, *GIVEN, "--slo", str(path), "--ttft", "900", "--share", "0.9")
    assert sheet["limits"] == {"ttft_ms": 900, "itl_ms": None, "final_ms": None, "share": 0.9}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([*GIVEN, "--ttft", "800", "--mix", "many"], "--mix 'many': expected PROMPT:ANSWER"),
        (["--mix", "300:60", "--ttft", "800"], "--mix and --peak belong together"),
        (GIVEN, "nothing says what must hold"),
        ([*GIVEN, "--ttft", "5"], "one request alone takes"),
        ([*GIVEN, "--ttft", "800", "--prefill-chunk", "0"], "prefill_chunk is 0: expected 1 or more"),
    ],
)
def test_what_is_wrong_or_missing_is_named(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert run(["capacity", *STEP, *arguments]) == 1
    assert told in capsys.readouterr().err


def test_without_calls_the_way_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_database(tmp_path).close()
    assert run(["capacity", *STEP, "--data", str(tmp_path), "--ttft", "500"]) == 1
    assert "no call with token counts is stored, load tests aside: widen it with --since, or give --mix and --peak" in (
        capsys.readouterr().err
    )
