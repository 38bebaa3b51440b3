"""Tokens a second of each GPU: on the runtime's /metrics, in the table `engine`, on the GPU page, by minute in SQL."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import httpx
import pytest

from tailbudget.analytics import gpu
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tests import runtime_support
from tests.collector_support import collector
from tests.nvml_support import absent, compiled
from tests.seed import empty
from tests.support import wait_until

TOKENS = 60
MINUTE = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def test_the_runtimes_gpu_has_its_tokens_in_metrics_and_in_sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This model runs on the CPU: only which GPU it would be on is said here, all else is as served.
    placed = "from tailbudget.gpu_runtime import host; host.gpu_of = lambda device: 'GPU-second'; "
    monkeypatch.setattr(runtime_support, "RUN", placed + runtime_support.RUN)
    (tmp_path / "driver").mkdir()
    driver = {"LD_LIBRARY_PATH": str(compiled(tmp_path / "driver"))}
    with collector(tmp_path / "data") as running:
        with runtime_support.server(f"http://127.0.0.1:{running.http_port}", environment=driver) as (url, _):
            # What comes before a second sample has no known duration.
            seen = "select count(*) as n from engine where gpu = 'GPU-second'"
            wait_until(lambda: running.value(seen) > 0, what="a sample of the engine")
            asked = {"model": "tiny", "prompt": list(range(100, 150)), "max_tokens": TOKENS}
            assert httpx.post(f"{url}/v1/completions", json=asked, timeout=120).status_code == 200
            told = httpx.get(f"{url}/metrics").text
            labels = f'{{gpu="GPU-second",instance="{url[7:]}",model_name="tiny"}}'
            rates = {
                kind: float(re.findall(rf"tailbudget:gpu_{kind}_tokens_per_second{re.escape(labels)} (.+)", told)[0])
                for kind in ("prompt", "generation")
            }
            assert rates["generation"] / rates["prompt"] == pytest.approx(TOKENS / 50, rel=1e-3)
            landed = "select sum(generation_tokens) as n from engine where gpu = 'GPU-second'"
            wait_until(lambda: running.value(landed) == TOKENS, what="the tokens in the table engine")
        found = running.rows(
            "select gpu, instance, gpus, sum(generation_tokens_per_s * covered_s) as generated,"
            " sum(prompt_tokens_per_s * covered_s) as prompt"
            " from gpu_throughput_between(now() - interval 1 hour, now() + interval 1 minute) group by all"
        )
        hosts = running.rows("select distinct host from gpu where gpu = 'GPU-second'")
    (row,) = found
    assert (row["gpu"], row["instance"], row["gpus"], len(hosts)) == ("GPU-second", url[7:], 1, 1)
    assert (row["generated"], row["prompt"]) == (pytest.approx(TOKENS), pytest.approx(50))


def test_a_runtime_without_a_gpu_has_no_tokens_of_one(tmp_path: Path) -> None:
    no_driver = {"LD_LIBRARY_PATH": str(absent(tmp_path))}
    with runtime_support.receiver() as otlp:
        with runtime_support.server(otlp.endpoint, environment=no_driver) as (url, _):
            assert "gpu_generation_tokens_per_second" not in httpx.get(f"{url}/metrics").text
            wait_until(lambda: any(name == "slo.engine.running" for name, _, _ in otlp.points))
        assert not any("hw.id" in labels for _, labels, _ in otlp.points)


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Two minutes of one engine of vLLM on a host with two GPUs, and of one of ours on a GPU of its own."""
    connection = empty(tmp_path)
    for second in range(0, 120, 10):
        at = MINUTE + timedelta(seconds=second)
        rows = [("box:8000", "vllm", 1000 if second < 60 else 3000, None), ("b:1", "tailbudget-runtime", 500, "GPU-c")]
        for instance, source, tokens, named in rows:
            connection.execute(
                "insert into engine by name select ?::timestamptz as t, ? as instance, 'm' as model, ? as source,"
                " true as up, ?::double as generation_tokens, 50.0 as prompt_tokens, ? as gpu",
                [at, instance, source, tokens, named],
            )
        for host, device in (("box", "GPU-a"), ("box", "GPU-b"), ("b", "GPU-c")):
            connection.execute(
                "insert into gpu by name select ?::timestamptz as sampled_at, ? as host, ? as gpu, true as up",
                [at, host, device],
            )
    yield connection
    connection.close()


def test_an_engine_over_several_gpus_brings_each_its_part(stored: duckdb.DuckDBPyConnection) -> None:
    found = stored.execute(
        "select gpu, gpus, generation_tokens_per_s, prompt_tokens_per_s, covered_s"
        " from gpu_throughput_between(?, ?) order by gpu, minute",
        [MINUTE, MINUTE + timedelta(minutes=2)],
    ).fetchall()
    # Of the first minute the sample before is missing: its tokens came in a time that nobody knows.
    a = [(2, 50.0, 2.5, 50.0), (2, 150.0, 2.5, 60.0)]
    c = [(1, 50.0, 5.0, 50.0), (1, 50.0, 5.0, 60.0)]
    assert [row[0] for row in found] == ["GPU-a"] * 2 + ["GPU-b"] * 2 + ["GPU-c"] * 2
    assert [row[1:] for row in found] == [*a, *a, *c]


def test_the_gpu_page_draws_the_tokens_of_a_gpu_that_is_named(stored: duckdb.DuckDBPyConnection) -> None:
    window = Window(MINUTE, MINUTE + timedelta(minutes=2))
    rows = gpu.engine_series(ConnectionReader(stored), window, bucket_s=60).to_pylist()
    drawn = {(row["source"], row["value"], row["n"]) for row in rows if row["measure"] == "gpu_tokens_per_s"}
    assert drawn == {("b GPU-c", 50.0, 6)}
    assert sum(row["measure"] == "gpu_tokens_per_s" for row in rows) == 2
