"""celery on its in-memory broker: a task is a part of the request that sent it, without a change of the task."""

from collections.abc import Iterator

import pytest

from tailbudget import request, stage
from tailbudget.instrument import hooks
from tests.instrument_support import Recorded, recording

pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        hooks.install(only=("celery",))
        try:
            yield recorded
        finally:
            hooks.uninstall()


def test_a_task_goes_on_with_the_request_that_sent_it(recorded: Recorded) -> None:
    celery = pytest.importorskip("celery", reason="celery is not installed")
    from celery.contrib.testing.worker import start_worker

    app = celery.Celery("svc", broker="memory://", backend="cache+memory://")
    app.conf.worker_hijack_root_logger = False

    def report(fails: bool) -> str:
        with stage("retrieval", "docs"):
            if fails:
                raise ValueError("secret")
        return "done"

    task = app.task(name="svc.report")(report)
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20):
        with request("report", tenant="acme"):
            assert task.delay(False).get(timeout=120) == "done"
        with request("again"), pytest.raises(ValueError, match="secret"):
            task.delay(True).get(timeout=120)
    first, second = (span for span in recorded.spans if span.name == "process svc.report")
    assert first.parent is not None
    assert first.parent.span_id == recorded.id_of("report")
    assert (first.attributes or {})["slo.tenant"] == "acme"
    assert (first.attributes or {})["messaging.system"] == "celery"
    assert (second.attributes or {})["error.type"] == "ValueError"
    waits = [span for span in recorded.spans if span.name == "queue svc.report"]
    assert len(waits) == 2
    assert all((span.attributes or {})["slo.stage"] == "queue" for span in waits)
    assert "secret" not in str([span.attributes for span in recorded.spans])
