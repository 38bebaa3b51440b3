"""The real runtime short of cache, and with a long queue, is diagnosed through a real collector; its twin is not."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from .collector_support import collector
from .runtime_support import server
from .support import wait_until

RULES: Final = ("kv_pressure", "queue_deep")
#: More than eight waiting is deep here: a thousand would take the tiny engine minutes.
DEEP = "from found_queue_deep(now() - interval 1 hour, now(), most_waiting := 8)"
ASKED = 24


def ask(url: str) -> int:
    """Ask for an answer that is long for the tiny model."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "go on"}], "max_tokens": 60}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120).status_code


@pytest.mark.slow
def test_an_engine_without_room_is_found_and_one_with_room_is_not(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as running:
        endpoint = f"http://127.0.0.1:{running.http_port}"
        common: dict[str, Any] = {"max_context": 96, "step_delay_ms": 40.0}
        with (
            server(endpoint, kv_pages=8, max_running=8, **common) as (cramped, _),
            server(endpoint, max_running=ASKED, **common) as (roomy, _),
            ThreadPoolExecutor(2 * ASKED) as callers,
        ):
            answers = list(callers.map(ask, [cramped, roomy] * ASKED))
        assert answers == [200] * 2 * ASKED
        pressed = wait_until(lambda: running.rows("from diag_kv_pressure"), what="the full cache")
        deep = wait_until(lambda: running.rows(DEEP), what="the long queue")
        samples = running.rows("select instance, max(running) as running from engine group by all")
    assert {cramped.removeprefix("http://")} == {row["scope"]["instance"] for row in pressed}
    assert {cramped.removeprefix("http://")} == {row["scope"]["name"] for row in deep}
    assert pressed[0]["evidence"]["waiting"] > 0
    assert {row["instance"] for row in samples} == {cramped.removeprefix("http://"), roomy.removeprefix("http://")}
