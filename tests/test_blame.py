"""Blame names the service or operation that takes more of a request's time than in the baseline."""

import json
import random
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from tailbudget.analytics.blame import Blame, before, blame, blame_usual
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.analytics.written import Recorder
from tailbudget.app.cli import cli, run
from tailbudget.collector.land.database import open_database
from tailbudget.instrument.errors import UserError

from .spans import Span, Trace, assemble, database, land, later

HOUR_S = 3600
WINDOW = Window(later(HOUR_S), later(HOUR_S + 600))
BASELINE = Window(later(0), later(600))
#: Callee -> milliseconds of its own work, and of the network before it.
USUAL: Mapping[str, tuple[float, float]] = {"cart": (5, 1), "catalog": (12, 1), "pay": (8, 1)}


def shop(
    number: int, start_s: float, *, slow: Mapping[str, float] = {}, network: Mapping[str, float] = {}, failing: str = ""
) -> list[Span]:
    """Return a request of a front that calls three services in turn; `slow` and `network` add milliseconds."""
    rng = random.Random(number)
    trace, at = Trace(number), start_s * 1000
    begin = at
    calls: list[tuple[str, float, float, float, float]] = []
    at += 3 + slow.get("front", 0)
    for callee, (work, wait) in USUAL.items():
        own = (work + slow.get(callee, 0)) * rng.uniform(0.9, 1.1)
        away = (wait + network.get(callee, 0)) * rng.uniform(0.9, 1.1)
        if failing == callee:
            own *= 0.3
        calls.append((callee, at, at + away, at + away + own, at + 2 * away + own))
        at += 2 * away + own + 1
    root = trace.add("GET /buy", begin, at + 2, kind="SERVER", service="front")
    for callee, asked, began, ended, answered in calls:
        status = "ERROR" if failing == callee else "UNSET"
        call = trace.add(f"call {callee}", asked, answered, under=root, kind="CLIENT", service="front", status=status)
        trace.add(f"serve {callee}", began, ended, under=call, kind="SERVER", service=callee, status=status)
    return trace.spans


def incident(by: str = "service", *, slow: Mapping[str, float] = {}, network: Mapping[str, float] = {}) -> Blame:
    """Return the blame of 40 requests that are slower so much, against 40 as usual."""
    connection = database()
    spans = [span for n in range(1, 41) for span in shop(n, 10 * n)]
    for n in range(41, 81):
        spans += shop(n, HOUR_S + 10 * (n - 40), slow=slow, network=network)
    land(connection, spans)
    return blame(ConnectionReader(connection), WINDOW, baseline=BASELINE, by=by)


def test_a_service_that_works_longer_is_first() -> None:
    found = incident(slow={"catalog": 30})
    first, *_ = found.ranking
    assert (first.rank, first.service, first.operation) == (1, "catalog", None)
    assert first.delta_ms == pytest.approx(30, rel=0.1)
    assert (found.requests, found.baseline_requests) == (40, 40)


def test_the_operation_is_named_on_request() -> None:
    first, *_ = incident("operation", slow={"pay": 30}).ranking
    assert (first.service, first.operation) == ("pay", "serve pay")


def test_a_slow_network_before_a_service_is_its_own_and_half_the_callers() -> None:
    first, second, *_ = incident(network={"cart": 20}).ranking
    assert [first.service, second.service] == ["cart", "front"]
    assert first.delta_ms == pytest.approx(40, rel=0.1)  # there and back
    assert second.delta_ms == pytest.approx(first.delta_ms / 2, rel=0.1)


def test_a_caller_that_waits_longer_for_everybody_is_slow_itself() -> None:
    first, second, *_ = incident(network={"cart": 20, "catalog": 20, "pay": 20}).ranking
    assert first.service == "front"
    assert second.delta_ms < first.delta_ms / 5


def test_a_span_beside_a_call_that_ends_later_is_not_blamed_for_what_it_waits_for() -> None:
    connection, spans = database(), []
    for n in range(1, 81):
        trace, at = Trace(n), (10 * n if n <= 40 else HOUR_S + 10 * (n - 40)) * 1000
        took = 20 if n <= 40 else 120
        root = trace.add("GET /", at, at + took + 6, kind="SERVER", service="gateway")
        trace.add("filter", at + 1, at + took + 4, under=root, service="gateway")  # waits for the call beside it
        call = trace.add("call shop", at + 3, at + took + 5, under=root, kind="CLIENT", service="gateway")
        trace.add("serve", at + 4, at + took + 4, under=call, kind="SERVER", service="shop")
        spans += trace.spans
    land(connection, spans)
    first, second = blame(ConnectionReader(connection), WINDOW, baseline=BASELINE).ranking
    assert [first.service, second.service] == ["shop", "gateway"]
    assert [first.delta_ms, second.delta_ms] == pytest.approx([100, 0], abs=0.01)


def test_an_error_that_began_in_a_service_is_blamed_where_latency_says_nothing() -> None:
    connection = database()
    spans = [span for n in range(1, 41) for span in shop(n, 10 * n)]
    for n in range(41, 81):
        spans += shop(n, HOUR_S + 10 * (n - 40), failing="pay" if n % 4 == 0 else "")
    land(connection, spans)
    first, *_ = blame(ConnectionReader(connection), WINDOW, baseline=BASELINE).ranking
    assert first.service == "pay"
    assert first.delta_ms <= 0


def test_drift_of_work_that_is_called_often_is_no_culprit() -> None:
    def request(number: int, start_s: float, *, often_ms: float, rare_ms: float) -> list[Span]:
        trace, at = Trace(number), start_s * 1000
        root = trace.add("GET /", at, at + 2000, kind="SERVER", service="front")
        for step in range(50):
            trace.add("look up", at + 20 * step, at + 20 * step + often_ms, under=root, service="catalog")
        if number % 10 == 0:
            trace.add("send mail", at + 1100, at + 1100 + rare_ms, under=root, service="mail")
        return trace.spans

    connection = database()
    spans = [span for n in range(1, 41) for span in request(n, 10 * n, often_ms=10, rare_ms=5)]
    for n in range(41, 81):
        spans += request(n, HOUR_S + 10 * (n - 40), often_ms=10.3, rare_ms=105)
    land(connection, spans)
    found = blame(ConnectionReader(connection), WINDOW, baseline=BASELINE).ranking
    ranked = [(one.service, round(one.delta_ms, 1)) for one in found]
    assert ranked[:2] == [("mail", 10.0), ("catalog", 15.0)]


def test_a_request_counts_where_its_first_span_starts_and_the_end_is_exclusive() -> None:
    connection = database()
    starts_s = {1: 0, 2: 600, 3: HOUR_S - 0.001, 4: HOUR_S, 5: HOUR_S + 599.999, 6: HOUR_S + 600}
    land(connection, [span for number, start_s in starts_s.items() for span in shop(number, start_s)])
    found = blame(ConnectionReader(connection), WINDOW, baseline=BASELINE)
    assert (found.requests, found.baseline_requests) == (2, 1)


def test_equals_are_in_the_order_of_their_names() -> None:
    connection = database()
    for number, start_s in ((1, 10), (2, HOUR_S + 10)):
        trace, at, wide = Trace(number), start_s * 1000, 10 * number
        root = trace.add("root", at, at + 100, service="front")
        for name in ("b", "a"):
            trace.add("work", at + 1, at + 1 + wide, under=root, service=name)
        land(connection, trace.spans)
    found = blame(ConnectionReader(connection), WINDOW, baseline=BASELINE)
    assert [one.service for one in found.ranking][:2] == ["a", "b"]


def test_without_a_request_nobody_is_blamed() -> None:
    found = blame(ConnectionReader(database()), WINDOW, baseline=BASELINE)
    assert (found.requests, found.baseline_requests, found.ranking) == (0, 0, ())


def chat(number: int, start_s: float, *, tenant: str, decode_ms: float) -> list[Span]:
    """Return a request with retrieval and a model call, as an instrumented service sends it."""
    trace, at = Trace(number), start_s * 1000
    attrs = {"slo.request": "chat", "slo.tenant": tenant, "deployment.ring": f"{tenant}'s"}
    root = trace.add("chat", at, at + 150 + decode_ms, kind="SERVER", attrs=attrs)
    trace.add("retrieval docs", at + 1, at + 41, under=root, attrs={"slo.stage": "retrieval"})
    call = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "slo.time_to_first_token": 0.1}
    trace.add("chat m", at + 45, at + 145 + decode_ms, under=root, kind="CLIENT", attrs=call)
    return trace.spans


@pytest.mark.parametrize(
    ("by", "name", "expected"),
    [
        ("stage", "stage", "decode"),
        ("tenant", "value", "acme"),
        ("route", "value", "chat"),
        ("deployment.ring", "value", "acme's"),
    ],
)
def test_stages_and_segments_of_requests_are_ranked_too(by: str, name: str, expected: str) -> None:
    connection = database()
    spans = []
    for n in range(1, 41):
        tenant = "acme" if n % 2 else "other"
        spans += chat(n, 10 * n, tenant=tenant, decode_ms=200)
        spans += chat(n + 40, HOUR_S + 10 * n, tenant=tenant, decode_ms=800 if tenant == "acme" else 200)
    assemble(connection, spans)
    found = blame(ConnectionReader(connection), WINDOW, baseline=BASELINE, by=by)
    assert (found.requests, found.baseline_requests) == (40, 40)
    assert getattr(found.ranking[0], name) == expected
    assert found.ranking[0].delta_ms > 100


def test_a_baseline_is_as_long_as_the_window_and_never_overlaps_it() -> None:
    assert before(WINDOW) == BASELINE
    week = timedelta(days=7)
    assert before(WINDOW, "week") == Window(WINDOW.from_ts - week, WINDOW.to_ts - week)
    long = Window(later(0), later(3 * HOUR_S))
    assert before(long).to_ts == long.from_ts
    with pytest.raises(UserError, match="expected one of hour, week"):
        before(WINDOW, "month")


def test_an_hour_before_in_which_nothing_came_is_not_ranked() -> None:
    connection = database()
    land(connection, [span for n in range(1, 41) for span in shop(n, HOUR_S + 10 * n, slow={"pay": 20 * (n > 20)})])
    recorder = Recorder(ConnectionReader(connection))
    found = blame_usual(recorder, Window(later(HOUR_S + 205), later(HOUR_S + 410)), by="service")
    assert (found.baseline_requests, found.ranking[0].service) == (20, "pay")
    assert sum("more of a request's time" in asked for asked in recorder.asked) == 1
    usual = blame_usual(recorder, Window(later(2 * HOUR_S + 205), later(2 * HOUR_S + 410)), by="service")
    assert usual.baseline.from_ts == later(HOUR_S + 205)


def test_what_makes_no_sense_is_refused() -> None:
    reader = ConnectionReader(duckdb.connect())
    with pytest.raises(UserError, match="is empty"):
        blame(reader, Window(WINDOW.to_ts, WINDOW.from_ts), baseline=BASELINE)
    with pytest.raises(UserError, match="overlaps"):
        blame(reader, WINDOW, baseline=WINDOW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    connection = open_database(data)
    spans = [span for n in range(1, 11) for span in shop(n, 10 * n)]
    land(connection, spans + [span for n in range(11, 21) for span in shop(n, HOUR_S + 10 * n, slow={"pay": 9})])
    connection.close()
    return data


def arguments(folder: Path, *more: str) -> list[str]:
    """Return the command line for the incident in `folder`."""
    window = ["--from", f"{WINDOW.from_ts.isoformat()}", "--to", f"{WINDOW.to_ts.timestamp():.0f}"]
    return ["blame", *window, "--data", str(folder), *more]


def test_the_command_prints_the_promised_object(folder: Path) -> None:
    usual = ["--baseline-from", "2026-03-01T12:00:00Z", "--baseline-to", "2026-03-01T12:10:00Z"]
    found = json.loads(CliRunner().invoke(cli, arguments(folder, *usual, "--json")).stdout)
    (first, *_) = found.pop("ranking")
    assert found == {
        "from": "2026-03-01T13:00:00.000000Z",
        "to": "2026-03-01T13:10:00.000000Z",
        "baseline_from": "2026-03-01T12:00:00.000000Z",
        "baseline_to": "2026-03-01T12:10:00.000000Z",
        "by": "service",
        "requests": 10,
        "baseline_requests": 10,
    }
    assert list(first) == ["rank", "service", "stage", "operation", "delta_ms", "p90_delta_ms"]
    assert (first["rank"], first["service"], first["stage"], first["operation"]) == (1, "pay", None, None)


def test_people_get_a_table_and_the_hour_before_is_the_baseline(folder: Path) -> None:
    text = CliRunner().invoke(cli, arguments(folder, "--by", "operation")).stdout
    assert text.startswith("10 requests against 10 of the baseline")
    assert text.splitlines()[3].split()[:4] == ["1", "pay", "serve", "pay"]
    empty = CliRunner().invoke(cli, arguments(folder, "--baseline", "week")).stdout
    assert empty.startswith("10 requests against 0 of the baseline (--baseline-from and --baseline-to name a time in")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--baseline-from", "2026-03-01"], "give both"),
        (["--baseline", "month"], "expected one of hour, week"),
        (["--from", "noon"], "'noon' is no instant"),
    ],
)
def test_a_wrong_option_is_one_line(
    more: list[str], reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(folder, *more)) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.splitlines()) == 1
