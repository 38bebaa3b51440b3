"""A real worker that hangs is in `live` while it hangs, and when it is killed its request is lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from .collector_support import collector
from .support import wait_until
from .test_instrument_running import SERVICE


def test_a_hang_is_live_and_a_killed_worker_is_lost(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as running:
        endpoint = f"http://127.0.0.1:{running.http_port}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        with subprocess.Popen(
            [sys.executable, "-c", SERVICE, endpoint], stdout=subprocess.PIPE, text=True, env=environment
        ) as worker:
            assert worker.stdout is not None
            pid = int(worker.stdout.readline())
            try:
                live = wait_until(
                    lambda: running.rows("select request_id, route, service, stage, outcome, age_s from live"),
                    what="the request in live",
                )
            finally:
                os.kill(pid, signal.SIGKILL)
        assert live[0].pop("age_s") > 0.1
        assert live == [
            {"request_id": "r-9", "route": "hang", "service": "worker", "stage": "retrieval", "outcome": None}
        ]
        lost = wait_until(
            lambda: running.rows("select request_id, route, outcome, left_in_stage from requests"),
            what="the lost request",
        )
    assert lost == [{"request_id": "r-9", "route": "hang", "outcome": "lost", "left_in_stage": "retrieval"}]
