"""`tailbudget doctor` says what each service sends and why something was not stored, and fails when nobody answers."""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tailbudget.app.cli import run
from tailbudget.app.doctor import REASONS
from tailbudget.app.text import ago
from tailbudget.collector.receive.batches import CONTENT_REASONS
from tailbudget.collector.receive.decoder import decoder_of
from tailbudget.collector.receive.privacy import DROP

from .collector_support import Collector, collector, gauge, metrics_body, trace_body, trace_request
from .local_api import local_api
from .seed import empty
from .support import free_port, wait_until

CALL = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.provider.name": "openai"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector that holds five calls of `shop` and refused one span."""
    with collector(tmp_path_factory.mktemp("data")) as started:
        assert started.post("/v1/traces", trace_body(5, attributes=CALL))[0] == 200
        broken = trace_request(1, start_ns=time.time_ns(), seed=2)
        broken.resource_spans[0].scope_spans[0].spans[0].trace_id = bytes(16)
        assert started.post("/v1/traces", broken.SerializeToString())[0] == 200
        wait_until(lambda: started.value("select count(*) from calls") == 5, what="five calls")
        wait_until(
            lambda: started.value("select count(*) from ingest_health where reason = 'bad_id'"), what="its count"
        )
        yield started


def address(running: Collector) -> str:
    return f"http://127.0.0.1:{running.api_port}"


def told(running: Collector, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert run(["doctor", "--api", address(running), *options]) == 0
    return capsys.readouterr().out


def test_json_says_what_the_collector_and_each_service_do(
    running: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, Any] = json.loads(told(running, capsys, "--json"))
    assert (found["api"], found["decoder"], found["failures"]) == (address(running), decoder_of(DROP), {})
    assert (found["queue_bodies"], found["journal_bytes"], found["assembly_lag_s"]) == (0, 0, 0)
    (shop,) = found["services"]
    assert (shop["service"], shop["calls"], shop["ttft_share"], shop["ended"]) == ("shop", 5, 0, None)
    assert {"what": "ttft", "add": 'tailbudget.init("shop")'} in shop["missing"]
    assert datetime.fromisoformat(shop["last_span"]).tzinfo is not None
    assert shop["last_span"].endswith("Z")
    (refused,) = found["unstored"]
    assert (refused["service"], refused["signal"], refused["reason"], refused["n"]) == ("shop", "traces", "bad_id", 1)


def test_people_read_a_table_the_lines_to_add_and_the_reasons(
    running: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(running, capsys)
    assert f"collector  {address(running)} answers; decoder {decoder_of(DROP)}" in text
    row = next(line for line in text.splitlines() if line.startswith("shop "))
    assert " ago" in row or "just now" in row
    assert 'shop: ttft\n      tailbudget.init("shop")' in text
    assert "1 of shop (traces, bad_id): spans whose trace or span id is absent" in text


def test_a_length_of_time_that_is_none_is_named(running: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--api", address(running), "--since", "soon"]) == 2
    assert "'soon' is no length of time: expected a number and s, m, h or d" in capsys.readouterr().err


def test_without_a_collector_it_fails_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    api = f"http://127.0.0.1:{free_port()}"
    assert run(["doctor", "--api", api]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"tailbudget: no collector answers at {api}")
    assert "start `tailbudget collector`" in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("api", ["nonsense", "127.0.0.1:4320"])
def test_an_address_that_is_no_url_is_refused_with_an_example(api: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--api", api]) == 2
    assert f"{api!r}: expected an address such as http://127.0.0.1:4320" in capsys.readouterr().err


def test_a_collector_that_does_not_accept_spans_yet_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with empty(tmp_path) as connection, local_api(connection, ready=False) as api:
        assert run(["doctor", "--api", api]) == 1
    assert "/readyz answered 503, 200 was expected" in capsys.readouterr().err


def test_a_collector_without_spans_says_where_to_send_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with empty(tmp_path) as connection, local_api(connection) as api:
        assert run(["doctor", "--api", api]) == 0
    assert "OTEL_EXPORTER_OTLP_ENDPOINT=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "just now"),
        (0.4, "just now"),
        (59, "59 s ago"),
        (3599, "59 min ago"),
        (-7300, "2 h ahead"),
        (90_000, "1 d ago"),
    ],
)
def test_how_long_ago_is_told_in_the_largest_whole_unit(seconds: float, words: str) -> None:
    now = datetime.now(UTC)
    assert ago(now - datetime.fromtimestamp(now.timestamp() - seconds, UTC)) == words


def test_every_reason_that_the_collector_counts_is_told_in_words() -> None:
    folder = Path(__file__).parents[1] / "collector"
    code = "\n".join(path.read_text() for path in folder.rglob("*.py") if path.parent.name != "forward")
    counted = set(re.findall(r'(?:dropped|count)\((?:"?[a-z]+"?, )?"([a-z_]+)"', code)) - {"accepted"}
    assert counted >= {"damaged", "bad_id", "repeated_body", "scrape_not_taken", "unlandable"}
    assert (counted | set(CONTENT_REASONS.values())) - set(REASONS) == set()


def test_sampling_is_told_with_what_it_leaves_unweighted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with collector(tmp_path / "data") as running:
        request = trace_request(2, start_ns=time.time_ns() - 1_000_000_000, attributes={**CALL, "slo.request": "/chat"})
        for span in request.resource_spans[0].scope_spans[0].spans:
            span.trace_state = "ot=th:c"
        assert running.post("/v1/traces", request.SerializeToString())[0] == 200
        wait_until(lambda: running.value("select count(*) from requests") == 2, what="two requests")
        assert "sampled    shop: 2 requests stand for about 8: " in told(running, capsys)
        assert run(["report", "--api", address(running), "--since", "1h"]) == 0
        assert "sampled: they stand for about 8; the figures are of what came" in capsys.readouterr().out


def test_who_sends_metrics_or_logs_alone_is_there_too_and_how_late(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ago_ns = time.time_ns() - 90_000_000_000
    record = ExportLogsServiceRequest()
    group = record.resource_logs.add()
    group.resource.attributes.add(key="service.name").value.string_value = "talks"
    group.scope_logs.add().log_records.add(observed_time_unix_nano=ago_ns)
    group.scope_logs[0].log_records.add(time_unix_nano=ago_ns)
    with collector(tmp_path / "data") as running:
        assert running.post("/v1/logs", record.SerializeToString())[0] == 200
        assert running.post("/v1/metrics", metrics_body(gauge("g", 1.0, t_ns=ago_ns)))[0] == 200
        wait_until(lambda: running.value("select count(*) from ingest_health where lag_sum_s is not null") == 2)
        found = {row["service"]: row for row in json.loads(told(running, capsys, "--json"))["arrivals"]}
        text = told(running, capsys)
    sent = {name: (row["spans"], row["points"], row["records"]) for name, row in found.items()}
    assert sent == {"shop": (0, 1, 0), "talks": (0, 0, 2)}
    assert all(89 < row["lag_s"] <= row["longest_lag_s"] < 600 for row in found.values())
    assert [line.split()[0] for line in text.splitlines() if "no spans" in line] == ["shop", "talks"]
    assert "none sent anything" not in text


def test_a_collector_with_a_token_says_what_to_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with collector(tmp_path / "data", token="secret") as running:
        assert run(["doctor", "--api", address(running)]) == 1
    assert "TAILBUDGET_TOKEN" in capsys.readouterr().err


def test_how_late_spans_are_is_told_by_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with collector(tmp_path / "data") as running:
        now_ns = time.time_ns()
        for service, end_ns in (("late", now_ns - 90_000_000_000), ("ahead", now_ns + 600_000_000_000)):
            request = trace_request(2, start_ns=end_ns - 1_000, seed=len(service), attributes=CALL)
            request.resource_spans[0].resource.attributes[0].value.string_value = service
            for span in request.resource_spans[0].scope_spans[0].spans:
                span.end_time_unix_nano = end_ns
            assert running.post("/v1/traces", request.SerializeToString())[0] == 200
        wait_until(lambda: running.value("select count(*) from ingest_health where lag_sum_s is not null") == 2)
        found = json.loads(told(running, capsys, "--json"))
        lags = {row["service"]: row["lag_s"] for row in found["arrivals"]}
        assert 89 < lags["late"] < 600
        assert -601 < lags["ahead"] < -90
        text = told(running, capsys)
        assert f"clock      ahead is {-lags['ahead']:.1f} s ahead of the collector" in text
        assert "clock      late" not in text
