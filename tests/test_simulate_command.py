"""`tailbudget simulate` reads traces as they are published and sets two policies side by side."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tailbudget.app.cli import run
from tailbudget.app.trace_files import read
from tailbudget.collector.land.database import open_database
from tailbudget.instrument.errors import UserError

STEP = ["--step", "12,0.4,0.05"]
SAMPLE = "azure-conversation"


def _asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["simulate", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def _few(folder: Path, count: int = 120) -> str:
    """Return the path of a trace of requests that come four a second."""
    path = folder / "few.csv"
    rows = [f"{number / 4},{100 + number % 7 * 60},{20 + number % 5 * 10}" for number in range(count)]
    path.write_text("\n".join(["offset_s,context_tokens,generated_tokens", *rows]) + "\n")
    return str(path)


def _mooncake(folder: Path) -> Path:
    path = folder / "trace.jsonl"
    rows = [
        {"timestamp": 1000 * turn, "input_length": 1100, "output_length": 5, "hash_ids": [7, 8, turn]}
        for turn in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_sample_that_is_shipped_has_ten_minutes() -> None:
    arrivals = read(SAMPLE)
    assert 590 < arrivals[-1].at_s < 630
    assert len(arrivals) > 2000


def test_a_trace_of_azure_is_read_as_it_is_published(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9305900,396,0\n"
    )
    first, second = read(str(path), rate=2)
    assert (first.at_s, first.prompt_tokens, first.output_tokens) == (0, 374, 44)
    assert second.at_s == pytest.approx(2.125)
    assert second.output_tokens == 1


def test_prompts_of_mooncake_that_begin_alike_find_each_other_in_the_prefix_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = str(_mooncake(tmp_path))
    with_cache, without = _asked(capsys, trace, *STEP, "--against", "prefix-cache=off")["policies"]
    assert with_cache["prefix_hits"] == pytest.approx(5 * 1024 / 6600)
    assert without["prefix_hits"] == 0
    assert with_cache["ttft_p50_ms"] < without["ttft_p50_ms"] / 3


def test_pages_of_a_gpu_are_longer_and_share_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    # One prompt twice: 24 pages of 16 tokens end before its last token, one of 256.
    rows = [{"timestamp": at, "input_length": 400, "output_length": 9, "hash_ids": [1]} for at in (0, 5000)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cpu, gpu = _asked(capsys, str(trace), *STEP, "--against", "device=cuda")["policies"]
    assert (cpu["prefix_hits"], gpu["prefix_hits"]) == (24 * 16 / 800, 256 / 800)


def test_two_policies_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = ["--against", "max-running=64", "--against", "prefill_chunk=512"]
    assert run(["simulate", _few(tmp_path), *STEP, "--max-running", "2", *changed]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a step takes 12 ms, 0.4 ms more a stream and 0.05 ms a prompt token; ")
    assert lines[2].split("  ")[-1].strip() == "max-running=64, prefill_chunk=512"
    rows = {line[:20].strip(): line[20:].split() for line in lines[4:]}
    assert rows["requests"] == ["120", "120"]
    queues = [float(text.replace(",", "")) for text in rows["queue p95 ms"]]
    assert queues[1] < queues[0] / 5


def test_tenants_of_a_trace_have_a_table_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tenants.csv"
    rows = [f"{number / 10},50,20,{'acme' if number % 2 else 'globex'}" for number in range(40)]
    path.write_text("\n".join(["offset_s,context_tokens,generated_tokens,tenant", *rows]) + "\n")
    assert run(["simulate", str(path), *STEP]) == 0
    out = capsys.readouterr().out
    assert "by tenant, as given" in out
    assert [line.split()[:2] for line in out.splitlines()[-2:]] == [["acme", "20"], ["globex", "20"]]


def test_the_step_is_that_of_the_engine_whose_samples_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = open_database(tmp_path)
    for number in range(1, 21):
        connection.execute(
            "insert into engine by name select $1 as t, 'box:8000' as instance, true as up, 30 as steps, "
            "10 + 0.5 * $2 as step_ms, $2 as batch_tokens, 0 as prompt_tokens",
            [datetime.now(UTC) - timedelta(seconds=number), number],
        )
    connection.close()
    found = _asked(capsys, _few(tmp_path), "--data", str(tmp_path))
    assert found["step"] == pytest.approx({"base_ms": 10, "stream_ms": 0.5, "prompt_token_ms": 0})
    assert run(["simulate", SAMPLE, "--data", str(tmp_path), "--instance", "other"]) == 1
    assert "engines that told their steps are 'box:8000': name one" in capsys.readouterr().err


def test_without_an_engine_the_way_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_database(tmp_path).close()
    assert run(["simulate", SAMPLE, "--data", str(tmp_path)]) == 1
    assert "no engine told its steps in that time: widen it with --since, or say it with --step" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--against", "speculate=4"], "--against 'speculate=4': expected NAME=VALUE with one of max-context"),
        (["--against", "max-running=many"], "--against 'max-running=many' is not understood"),
        (["--against", "prefix-cache=maybe"], "expected prefix-cache=VALUE (on or off)"),
        (["--against", "max-running=0"], "max_running is 0: expected 1 to 256 requests"),
        (["--step", "12"], "'12': expected three numbers, as in 12,0.4,0.05"),
        (["--step", "0,0,1"], "a step that decodes takes no time"),
    ],
)
def test_a_wrong_policy_or_step_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert run(["simulate", _few(tmp_path), *STEP, *arguments]) in (1, 2)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("offset_s,context_tokens,generated_tokens\n0,5,5\nsoon,5,5\n", "'soon'.*expected one of the forms"),
        ("context_tokens,generated_tokens\n5,5\n", "has lengths and no times"),
    ],
)
def test_a_trace_that_is_none_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        read(str(path))
