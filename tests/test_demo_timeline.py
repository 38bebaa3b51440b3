"""The demo's incidents are seen and told when they happen, end when they end, and nothing is seen before."""

import json
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tailbudget.analytics.reader import ApiReader
from tailbudget.gpu_runtime.models import fetch

from .support import wait_until
from .up_support import Up

pytestmark = pytest.mark.slow
#: Seconds since the first answered request.
QUIET_UNTIL, BLAMED_BY, THROTTLED_AT, SAGGED_BY = 150, 220, 270, 360
#: The page ends when less than 18 % of all requests were slow, and five minutes later: how soon is up to the traffic.
PAGED_BY, ALL_WELL_BY = 250, 900


class Demo:
    """A run of the demo with its real model, and what the collector has found by some second of it."""

    def __init__(self, folder: Path) -> None:
        self.up = Up(folder, "--demo")
        self.shown = self.up.lines_until("demo ")
        self.up.lines_until("    0 s")
        self.began = datetime.now(UTC)
        self.reader = ApiReader(f"http://127.0.0.1:{self.up.ports['TAILBUDGET_API_PORT']}")

    def wait_for(self, second: float) -> None:
        time.sleep(max(0.0, second - (datetime.now(UTC) - self.began).total_seconds()))

    def blamed(self) -> list[str]:
        rows = self.reader.query("select over_stage from violations group by all order by count(*) desc").to_pylist()
        return [row["over_stage"] for row in rows]

    def told(self, kind: str) -> list[str]:
        """Return what the local receiver, the demo service, was told of pages, in order."""
        port = self.up.ports["TAILBUDGET_DEMO_PORT"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/alerts", timeout=120) as answer:
            rows = json.loads(answer.read())
        return [row["status"] for row in rows if row["kind"] == kind and (kind == "sag" or row["severity"] == "page")]

    def burns(self) -> int:
        (row,) = self.reader.query("select count(*) as n from alerts where kind = 'burn'").to_pylist()
        return int(row["n"])

    def sags(self) -> list[datetime]:
        rows = self.reader.query("select opened from alerts where kind = 'sag' order by opened").to_pylist()
        return [row["opened"] for row in rows]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    fetch("smollm2")
    demo = Demo(tmp_path_factory.mktemp("demo"))
    yield demo
    demo.up.process.terminate()
    status, output = demo.up.ended()
    assert status == 0, output


def test_each_incident_is_seen_in_time_and_nothing_before_it(demo: Demo) -> None:
    demo.wait_for(QUIET_UNTIL - 1)
    assert (demo.blamed(), demo.sags(), demo.burns()) == ([], [], 0)  # tickets too

    wait_until(demo.blamed, timeout_s=BLAMED_BY - QUIET_UNTIL, what="a violation")
    assert demo.blamed()[0] == "retrieval"

    wait_until(lambda: demo.told("burn") == ["firing"], timeout_s=PAGED_BY - BLAMED_BY + 60, what="a page")

    demo.wait_for(THROTTLED_AT)
    assert demo.sags() == []
    wait_until(demo.sags, timeout_s=SAGGED_BY - THROTTLED_AT, what="a sag alert")
    assert demo.sags()[0] >= demo.began + timedelta(seconds=THROTTLED_AT)

    def over() -> bool:
        return demo.told("burn") == ["firing", "resolved"] and demo.told("sag")[-1:] == ["resolved"]

    wait_until(over, timeout_s=ALL_WELL_BY - SAGGED_BY, what="the end of both alerts")
    assert set(demo.told("sag")) == {"firing", "resolved"}
