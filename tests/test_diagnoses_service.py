"""A real service with a real model client is diagnosed through a real collector; its healthy twin is not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .collector_support import collector
from .instrument_support import ModelServer, serve
from .support import wait_until

SERVICE = """
import asyncio, sys
import tailbudget

tailbudget.init(sys.argv[2], endpoint=sys.argv[1])
from openai import AsyncOpenAI

sick = sys.argv[2] == "sick"
router, client = (AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) for url in sys.argv[3:])
system = {"role": "system", "content": "Never say more than you know. " * (400 if sick else 1)}
asked = [system, {"role": "user", "content": "why?"}]


async def tool(name):
    with tailbudget.stage("tools", name):
        await asyncio.sleep(0.5)


async def answer(number):
    with tailbudget.request("chat", budgets_ms={"total": 30_000}):
        limits = {} if sick else {"max_tokens": 64}
        await router.chat.completions.create(model="large" if sick else "small", messages=asked, **limits)
        tools = [tool(f"t{place}") for place in range(4)]
        if sick:
            for one in tools:
                await one
        else:
            await asyncio.gather(*tools)
        said = await client.chat.completions.create(
            model="large", messages=asked, stream=True, stream_options={"include_usage": True}, **limits
        )
        async for _ in said:
            pass
        if sick and number % 3 == 0:
            tailbudget.annotate(outcome="dropped")


async def main():
    await asyncio.gather(*(answer(number) for number in range(24)))

asyncio.run(main())
"""
RULES = ("agent_loop", "dropped", "output_uncapped", "oversized_model", "prompt_bloat", "tool_series")


@pytest.mark.slow
def test_what_ails_a_service_is_found_and_what_ails_none_is_not(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with (
        collector(tmp_path / "data") as running,
        serve(ModelServer(["the ", "first"]).app()) as router,
        serve(ModelServer(["word "] * 40).app()) as model,
    ):
        command = [sys.executable, "-c", SERVICE, f"http://127.0.0.1:{running.http_port}"]
        services = [subprocess.Popen([*command, name, router, model], env=environment) for name in ("well", "sick")]
        assert [service.wait(timeout=120) for service in services] == [0, 0]
        wait_until(
            lambda: running.rows("select 1 from requests having count(*) = 48"), timeout_s=60, what="all requests"
        )

        def found() -> dict[str, list[dict[str, Any]]] | None:
            rows = {rule: running.rows(f"select scope, evidence, advice from diag_{rule}") for rule in RULES}
            return rows if all(rows.values()) else None

        diagnosed = wait_until(found, timeout_s=30, what=f"each of {', '.join(RULES)}")
    assert {row["scope"].get("service") for rows in diagnosed.values() for row in rows} == {"sick"}
    assert diagnosed["dropped"][0]["evidence"]["dropped"] == 8
    assert diagnosed["oversized_model"][0]["scope"]["model"].startswith("large")
    assert "max_tokens" in diagnosed["output_uncapped"][0]["advice"]
