"""Errors of the telemetry are counted and logged once a window; those of the host pass."""

import pytest

from tailbudget import UserError
from tailbudget.instrument.guard import WINDOW_S, Guard


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "reraise", False)
    monkeypatch.setattr(Guard, "failures", {})
    monkeypatch.setattr(Guard, "_logged_s", {})


def fail_in(where: str) -> None:
    with Guard(where):
        raise OSError("broken exporter")


def test_an_error_is_swallowed_counted_and_logged_once_a_window(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    for _ in range(3):
        fail_in("stage")
    assert Guard.failures == {"stage": 3}
    assert len(caplog.records) == 1
    now_s += WINDOW_S
    fail_in("stage")
    assert len(caplog.records) == 2


def test_each_place_has_its_own_window(caplog: pytest.LogCaptureFixture) -> None:
    fail_in("stage")
    fail_in("stream")
    assert len(caplog.records) == 2


def test_a_guarded_function_answers_none() -> None:
    @Guard("entry")
    def entry(n: int) -> float:
        return 1 / n

    assert entry(2) == 0.5
    assert entry(0) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("mend this")])
def test_what_is_meant_for_a_person_passes(error: BaseException) -> None:
    with pytest.raises(type(error)), Guard("entry"):
        raise error


def test_tests_can_have_errors_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "reraise", True)
    with pytest.raises(OSError, match="broken"):
        fail_in("stage")
