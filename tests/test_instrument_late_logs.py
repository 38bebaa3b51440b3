"""The thread that delivers log records is there from the first record on, and none of them is lost for that."""

import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter

from tailbudget.instrument.exporters import Exports
from tailbudget.instrument.late_logs import LateLogs
from tests.instrument_support import sink
from tests.support import wait_until

WORKER = "OtelBatchLogRecordProcessor"


class Kept(InMemoryLogRecordExporter):
    """Keeps what it is given, and counts how often it is shut down."""

    ends = 0

    def shutdown(self) -> None:
        self.ends += 1

    def bodies(self) -> Sequence[Any]:
        return [record.log_record.body for record in self.get_finished_logs()]


class Service:
    """A provider of loggers with the processor that is tested, which delivers `delay_ms` after the first record."""

    def __init__(self, delay_ms: float) -> None:
        self.kept: Any = Kept()  # type: ignore[no-untyped-call]
        self.late = LateLogs(self.kept, delay_ms=delay_ms)
        self.provider = LoggerProvider(shutdown_on_exit=False)
        self.provider.add_log_record_processor(self.late)
        self._logger = self.provider.get_logger("test")
        self._before = workers()

    def say(self, *bodies: str) -> None:
        for body in bodies:
            self._logger.emit(LogRecord(body=body))

    def begun(self) -> int:
        return workers() - self._before


def workers() -> int:
    return sum(thread.name == WORKER for thread in threading.enumerate())


@pytest.fixture
def patient() -> Iterator[Service]:
    """A service whose records wait for a flush."""
    service = Service(600_000)
    yield service
    service.provider.shutdown()


def test_a_service_that_says_nothing_has_no_thread_for_it(patient: Service) -> None:
    assert patient.provider.force_flush()
    assert patient.begun() == 0
    patient.say("a", "b")
    assert patient.begun() == 1
    assert patient.kept.bodies() == []
    assert patient.provider.force_flush()
    assert patient.kept.bodies() == ["a", "b"]


def test_records_come_by_themselves() -> None:
    service = Service(1)
    service.say("a")
    wait_until(service.kept.bodies, what="the record")
    service.provider.shutdown()


@pytest.mark.parametrize("bodies", [(), ("a", "b")], ids=str)
def test_the_end_delivers_what_is_held_and_closes_the_exporter_once(bodies: tuple[str, ...]) -> None:
    service = Service(600_000)
    service.say(*bodies)
    service.provider.shutdown()
    service.say("late")
    assert service.begun() == 0
    assert service.kept.bodies() == list(bodies)
    assert service.kept.ends == 1


def test_first_records_at_once_begin_one_thread(patient: Service) -> None:
    start = threading.Barrier(8)

    def say(body: str) -> None:
        start.wait(30)
        patient.say(body)

    threads = [threading.Thread(target=say, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert patient.begun() == 1
    patient.provider.force_flush()
    assert sorted(patient.kept.bodies()) == [str(n) for n in range(8)]


def test_an_interpreter_that_starts_no_thread_any_more_delivers_at_once(
    patient: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    patient.say("a")
    assert patient.kept.bodies() == ["a"]


@pytest.mark.parametrize("said", [(), ("a",)], ids=str)
def test_a_child_delivers_its_own(patient: Service, said: tuple[str, ...]) -> None:
    patient.say(*said)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        patient.late.after_fork()
        patient.say("child's")
        patient.provider.force_flush()
        os.write(writing, ",".join(patient.kept.bodies()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 99) == b"child's"
    for end in (reading, writing):
        os.close(end)
    patient.provider.force_flush()
    assert patient.kept.bodies() == list(said)


def test_a_processor_that_variables_describe_is_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with sink() as collector:
        monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "0")
        with pytest.raises(ValueError, match="max_queue_size"):
            Exports(collector.url).log_processors()
        monkeypatch.delenv("OTEL_BLRP_MAX_QUEUE_SIZE")
        (late,) = Exports(collector.url).log_processors()
        assert type(late) is LateLogs
        late.shutdown()
