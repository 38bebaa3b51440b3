"""What users made of an answer reaches its request, whichever comes first; what a second costs is counted from it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tailbudget.analytics.feedback import abandonment, by_latency
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.collector.assemble import Assembler
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.forgetting import Forget, forget
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.receive.decode import decode_logs

from .collector_support import collector, pairs
from .spans import EPOCH_NS, Trace, database, land, later, one, rows
from .support import wait_until

SERVICE = """
import sys, tailbudget
tailbudget.init("shop", endpoint=sys.argv[1])
with tailbudget.request("chat", request_id="r-1"):
    pass
tailbudget.feedback("r-1", score=0.5, completed=True)
"""


def say(connection: duckdb.DuckDBPyConnection, request_id: str, *, at_s: float = 1, **said: object) -> None:
    """Land a record of feedback as the collector does."""
    request = ExportLogsServiceRequest()
    attributes = {"slo.request.id": request_id, **{f"slo.feedback.{name}": value for name, value in said.items()}}
    request.resource_logs.add().scope_logs.add().log_records.add(
        time_unix_nano=EPOCH_NS + round(at_s * 1e9), event_name="slo.feedback", attributes=pairs(attributes)
    )
    body = request.SerializeToString()
    digest = hashlib.blake2b(body, digest_size=16).digest()
    Landing(connection).land([Body(digest=digest, batches=decode_logs(body))], now=later(60))


def asked(number: int, *, ms: float = 1000, **attrs: Any) -> Trace:
    trace = Trace(number)
    trace.add("chat", 0, ms, attrs={"slo.request": "chat", "slo.request.id": f"r-{number}", **attrs})
    return trace


def assembled(connection: duckdb.DuckDBPyConnection, *traces: Trace) -> None:
    land(connection, (span for trace in traces for span in trace.spans))
    Assembler(connection).tick(later(60))


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"score": 0.5}, "0.5"),
        ({"score": 0.5, "completed": True}, "completed"),
        ({"completed": True, "converted": True}, "converted"),
        ({"completed": False}, "not completed"),
        ({"converted": False}, "not converted"),
    ],
)
def test_feedback_fills_its_request_whichever_comes_first(said: dict[str, Any], word: str, *, early: bool) -> None:
    connection = database()
    if early:
        say(connection, "r-1", **said)
    assembled(connection, asked(1), asked(2))
    if not early:
        say(connection, "r-1", **said)
    found = rows(connection, "select request_id, feedback from requests order by 1")
    assert found == [{"request_id": "r-1", "feedback": word}, {"request_id": "r-2", "feedback": None}]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_newest_word_counts_in_whatever_order_it_comes(order: tuple[int, int]) -> None:
    connection = database()
    said: dict[str, Any] = {"slo.feedback": "good"}
    assembled(connection, asked(1, **said))
    for at_s in order:
        say(connection, "r-1", at_s=at_s, completed=at_s == 2)
    assert one(connection, "select feedback from requests") == {"feedback": "completed"}


def test_what_is_no_number_is_null() -> None:
    connection = database()
    say(connection, "r-1", score="very good", completed="perhaps")
    assert one(connection, "select score, completed, converted from feedback") == {
        "score": None, "completed": None, "converted": None,
    }  # fmt: skip


def test_feedback_goes_from_the_service_to_the_row(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with collector(tmp_path / "data") as running:
        command = [sys.executable, "-c", SERVICE, f"http://127.0.0.1:{running.http_port}"]
        subprocess.run(command, env=environment, check=True, timeout=120)
        wanted = [{"request_id": "r-1", "feedback": "completed"}]
        query = "select request_id, feedback from requests where feedback is not null"
        assert wait_until(lambda: running.rows(query), what="the feedback") == wanted
        assert running.rows("select request_id, score, completed, converted from feedback") == [
            {"request_id": "r-1", "score": 0.5, "completed": True, "converted": None}
        ]


def test_a_forgotten_request_takes_its_feedback_along(tmp_path: Path) -> None:
    connection = open_database(tmp_path)
    assembled(connection, asked(1), asked(2))
    for request_id in ("r-1", "r-2"):
        say(connection, request_id, completed=True)
    forget(connection, Forget(request="r-1"), data=tmp_path)
    assert rows(connection, "select request_id from feedback") == [{"request_id": "r-2"}]
    assert one(connection, "select attrs->>'$.\"slo.request.id\"' as id from logs") == {"id": "r-2"}
    connection.close()


def test_completion_and_drops_are_counted_by_latency_with_their_intervals() -> None:
    connection = database()
    fast = [asked(number, ms=400) for number in range(1, 11)]
    slow = [asked(number, ms=3000, **({"slo.outcome": "dropped"} if number > 18 else {})) for number in range(11, 21)]
    assembled(connection, *fast, *slow)
    for number in range(1, 18):
        say(connection, f"r-{number}", completed=number <= 9 or number == 11)
    table = by_latency(ConnectionReader(connection), Window(later(0), later(60))).to_pylist()
    assert [(row["up_to_ms"], row["n"], row["completion_n"]) for row in table] == [(500, 10, 10), (4000, 10, 7)]
    first, last = table
    assert (first["completed_share"], last["dropped_share"], last["conversion_n"]) == (0.9, 0.2, 0)
    assert (last["dropped_low"], last["dropped_high"]) == pytest.approx((0.0567, 0.5098), abs=1e-4)
    assert (first["converted_share"], first["converted_low"]) == (None, None)


def test_who_leaves_is_counted_of_those_who_still_wait() -> None:
    connection = database()
    dropped: dict[str, Any] = {"slo.outcome": "dropped"}
    assembled(connection, asked(1, ms=100), asked(2, ms=600, **dropped), asked(3, ms=900), asked(4, ms=1900))
    table = abandonment(ConnectionReader(connection), Window(later(0), later(60))).to_pylist()
    told = [(row["from_ms"], row["waiting"], row["left_n"]) for row in table]
    assert told == [(0, 4, 0), (250, 3, 0), (500, 3, 1), (1000, 1, 0)]
