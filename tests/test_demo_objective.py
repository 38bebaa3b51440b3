"""The demo's objective fires nothing before its index is slow, pages while it is, and ends after it."""

from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path

import pytest

from tailbudget.app.demo.timeline import EVENTS
from tailbudget.app.demo.traffic import CALIBRATION, Clients, arrivals, trace_rate
from tailbudget.app.up import DEMO_SLO
from tailbudget.collector.alerting import BurnAlerts, ObjectiveFiles

from .slo_support import write
from .spans import database

BEGAN = datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC)
SLOW_FROM_S, SLOW_TO_S = (event.at_s for event in EVENTS[:2])
PAGED_BY_S, ENDED_BY_S = 240, 900
STEP_S = 30


def _outcomes(n: int) -> list[str]:
    """Return what becomes of the first requests, as the traffic's clients draw it after measuring the machine."""
    clients = Clients("http://demo")
    for _ in range(CALIBRATION + 1):
        clients.draw(may_leave=False)
    return ["dropped" if clients.draw()[1] else "ok" for _ in range(n)]


def test_some_clients_of_the_demo_leave() -> None:
    assert 2 <= _outcomes(200).count("dropped") <= 6


@pytest.mark.parametrize("per_minute", [5, 10, 20, 46])
def test_nothing_fires_before_the_index_is_slow_and_its_page_comes_in_time_and_ends(
    per_minute: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILBUDGET_DASHBOARD", "http://127.0.0.1:8501")
    stretch = trace_rate() * 60 / per_minute
    times = [offset_s * stretch for offset_s, _ in takewhile(lambda row: row[0] * stretch < ENDED_BY_S, arrivals())]
    outcomes = _outcomes(len(times))
    connection = database()
    alerts = BurnAlerts(connection, ObjectiveFiles([Path(DEMO_SLO)]))
    changed: list[tuple[str, str, int]] = []
    for now_s in range(STEP_S, ENDED_BY_S, STEP_S):
        events = [
            (BEGAN + timedelta(seconds=t), 1500.0 if SLOW_FROM_S <= t < SLOW_TO_S else 20.0, outcome)
            for t, outcome in zip(times, outcomes, strict=True)
            if now_s - STEP_S <= t < now_s
        ]
        write(connection, events, stage="retrieval")
        changes = alerts.update(BEGAN + timedelta(seconds=now_s))
        changed += [("closed" if one.closed else "opened", one.alert_id, now_s) for one in changes]
    assert [one for one in changed if one[2] <= SLOW_FROM_S] == []
    pages = [(what, second) for what, alert_id, second in changed if "|page|" in alert_id]
    assert [what for what, _ in pages] == ["opened", "closed"]
    assert pages[0][1] <= PAGED_BY_S
