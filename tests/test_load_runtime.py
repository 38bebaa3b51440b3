"""Unhappy clients leave the runtime well, and it shows in its answers and in the calls that land."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from .collector_support import Collector, collector
from .load_support import command
from .runtime_support import RUN, server, tiny_path
from .support import free_port, wait_until

pytestmark = pytest.mark.slow


def _sent(
    tmp_path: Path, one: Collector, url: str, *arguments: str, name: str = "run"
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    lengths = ("--in", "20", "--out-tokens", "12")
    return command(tmp_path, one, f"{url}/v1", *lengths, *arguments, name=name)


def test_prompts_that_share_blocks_in_the_trace_share_them_in_the_runtimes_cache(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as one, server(_endpoint(one), max_context=1024) as (url, _):
        fits = ("--scale", "0.05", "--most-in", "300", "--most-out", "4")
        common = ("--clients", "1", "--requests", "30")
        shared, _ = _sent(tmp_path, one, url, *common, "--trace", "mooncake", *fits, name="shared")
        own, _ = _sent(tmp_path, one, url, *common, "--in", "300", name="own")
        cached = "select count(*) filter (cached_tokens >= 16) from requests where run_id = "
        assert one.value(f"{cached} '{shared['run_id']}'") >= 25  # all of the trace's prompts begin with one block
        assert one.value(f"{cached} '{own['run_id']}'") <= 5


def _endpoint(one: Collector) -> str:
    return f"http://127.0.0.1:{one.http_port}"


def test_slow_readers_show_as_consumer_time_and_oversized_prompts_are_rejected(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as one, server(_endpoint(one), max_context=256) as (url, process):
        slow, _ = _sent(tmp_path, one, url, "--rate", "4", "--requests", "20", "--preset", "slow-reader", name="slow")
        calls = one.rows(
            "select consumer_ms, calls.decode_ms, calls.ttft_ms, server_ttft_ms "
            "from calls join requests using (trace_id) where run_id = $run",
            {"run": slow["run_id"]},
        )
        assert len(calls) == 20
        assert 0 < sum(call["consumer_ms"] >= 1000 for call in calls) < 20
        assert all(call["decode_ms"] > 0 and call["server_ttft_ms"] <= call["ttft_ms"] for call in calls)
        big, done = _sent(tmp_path, one, url, "--rate", "4", "--requests", "20", "--preset", "oversized", name="big")
        assert done.returncode == 0, done.stdout + done.stderr
        (step,) = big["steps"]
        assert step["outcomes"]["rejected"] + step["outcomes"]["ok"] == 20
        assert step["healthy_after"] is True
        assert process.poll() is None


def test_beyond_its_quota_a_tenant_is_refused_and_comes_back_when_it_may(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        '[tenants.a]\nkeys = ["k1"]\nrequests_per_minute = 60\n[tenants.b]\nkeys = ["k2"]\nrequests_per_minute = 60\n'
    )
    with collector(tmp_path / "data") as one, server(_endpoint(one), api_keys=str(keys)) as (url, _):
        sent = ("--rate", "10", "--requests", "75")
        plain, _ = _sent(tmp_path, one, url, *sent, "--api-key", "k1", name="plain")
        patient, done = _sent(tmp_path, one, url, *sent, "--api-key", "k2", "--preset", "rate-limits", name="patient")
        shed = one.value(f"select count(*) from requests where outcome = 'shed' and run_id = '{plain['run_id']}'")
        came_back = "attempts > 1 and outcome = 'ok'"
        again = one.value(f"select count(*) from load_requests where run_id = '{patient['run_id']}' and {came_back}")
    assert plain["steps"][0]["outcomes"]["shed"] == shed > 0
    assert again > 0
    assert patient["steps"][0]["outcomes"]["ok"] >= 60 + again
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_restart_of_the_runtime_under_load_costs_what_was_asked_meanwhile_and_nothing_after(tmp_path: Path) -> None:
    port = free_port()
    settings = repr({"model": str(tiny_path()), "port": port, "dtype": "float32"})
    (tmp_path / "run.py").write_text(RUN)
    start = f'{sys.executable} run.py "{settings}" 2>/dev/null & echo $! > pid'
    url = f"http://127.0.0.1:{port}"
    with collector(tmp_path / "data") as one:
        subprocess.run(start, shell=True, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: _well(url), what="the runtime")
            disruption = ("--break", "kill -9 $(cat pid)", "--mend", start)
            report, done = _sent(
                tmp_path, one, url, "--rate", "3", "--duration", "60s", "--preset", "restart", *disruption
            )
        finally:
            subprocess.run("kill $(cat pid)", shell=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (step,) = report["steps"]
    assert step["phases"]["before"]["failed"] == 0
    assert step["phases"]["during"]["failed"] == step["phases"]["during"]["n"] > 0
    assert step["healthy_after"] is True


def _well(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
