"""The demo's objective pages while its index is slow and ends after it, at the arrivals of its traffic."""

from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path

import pytest

from tailbudget.app.demo.timeline import EVENTS
from tailbudget.app.demo.traffic import arrivals, trace_rate
from tailbudget.app.up import DEMO_SLO
from tailbudget.collector.alerting import BurnAlerts, ObjectiveFiles

from .slo_support import write
from .spans import database

BEGAN = datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC)
SLOW_FROM_S, SLOW_TO_S = (event.at_s for event in EVENTS[:2])
PAGED_BY_S, ENDED_BY_S = 240, 900
STEP_S = 30


@pytest.mark.parametrize("per_minute", [5, 10, 20])
def test_the_slow_index_pages_within_its_time_and_the_page_ends(
    per_minute: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILBUDGET_DASHBOARD", "http://127.0.0.1:8501")
    stretch = trace_rate() * 60 / per_minute
    times = [offset_s * stretch for offset_s, _ in takewhile(lambda row: row[0] * stretch < ENDED_BY_S, arrivals())]
    connection = database()
    alerts = BurnAlerts(connection, ObjectiveFiles([Path(DEMO_SLO)]))
    pages: list[tuple[str, int]] = []
    for now_s in range(STEP_S, ENDED_BY_S, STEP_S):
        came = [t for t in times if now_s - STEP_S <= t < now_s]
        slow = [1500.0 if SLOW_FROM_S <= t < SLOW_TO_S else 20.0 for t in came]
        events = [(BEGAN + timedelta(seconds=t), ms, "ok") for t, ms in zip(came, slow, strict=True)]
        write(connection, events, stage="retrieval")
        changes = alerts.update(BEGAN + timedelta(seconds=now_s))
        pages += [("closed" if one.closed else "opened", now_s) for one in changes if "|page|" in one.alert_id]
    assert [what for what, _ in pages] == ["opened", "closed"]
    assert SLOW_FROM_S < pages[0][1] <= PAGED_BY_S
