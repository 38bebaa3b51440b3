"""Several collectors are read as one: counts add up, percentiles are exact, whoever of them runs."""

import json
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from tailbudget.analytics.reader import QueryError
from tailbudget.app.cli import cli
from tailbudget.collector.land.database import open_database
from tailbudget.collector.several import SeveralReader

from .collector_support import Collector, collector, trace_request
from .support import wait_until
from .test_seal import land, seal, traces

P95 = "select count(*)::int as n, quantile_cont(total_ms, 0.95) as p95_ms, sum(total_ms) as total_ms from requests"


def body(number: int, *, spans: int = 40) -> tuple[bytes, list[float]]:
    """Return requests of random length, and their lengths in milliseconds."""
    request = trace_request(spans, seed=number, start_ns=time.time_ns(), attributes={"slo.request": f"/{number % 3}"})
    rng = random.Random(number)
    found = []
    for span in request.resource_spans[0].scope_spans[0].spans:
        length_ns = rng.randrange(1_000_000, 3_000_000_000)
        span.end_time_unix_nano = span.start_time_unix_nano + length_ns
        found.append(length_ns / 1e6)
    return request.SerializeToString(), found


def exact_p95(values: list[float]) -> float:
    ordered = sorted(values)
    at = 0.95 * (len(ordered) - 1)
    low = int(at)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (at - low)


def api(running: Collector) -> str:
    return f"http://127.0.0.1:{running.api_port}"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Collector, Collector]]:
    with collector(tmp_path / "one", free_bytes=0) as one, collector(tmp_path / "two", free_bytes=0) as two:
        yield one, two


def ask(*data: str, query: str = P95) -> list[dict[str, float]]:
    named = [word for one in data for word in ("--data", one)]
    done = CliRunner().invoke(cli, ["sql", query, "--json", *named])
    assert done.exit_code == 0, done.output
    rows: list[dict[str, float]] = json.loads(done.stdout)
    return rows


def test_two_collectors_answer_as_one_and_still_do_when_one_was_killed(
    pair: tuple[Collector, Collector], tmp_path: Path
) -> None:
    one, two = pair
    lengths: list[float] = []
    for number in range(6):
        data, found = body(number)
        assert (one, two)[number % 2].post("/v1/traces", data)[0] == 200
        lengths += found
    wait_until(lambda: [running.value("select count(*) from requests") for running in pair] == [120, 120])
    expected = {"n": 240, "p95_ms": pytest.approx(exact_p95(lengths)), "total_ms": pytest.approx(sum(lengths))}
    assert ask(api(one), api(two)) == [expected]
    window = f"{P95} where started >= now() - interval 1 hour and route = '/1'"
    third = [length for number in (1, 4) for length in body(number)[1]]
    assert ask(api(one), api(two), query=window)[0]["p95_ms"] == pytest.approx(exact_p95(third))
    last, found = body(99)
    assert two.post("/v1/traces", last)[0] == 200
    two.kill()
    lengths += found
    expected = {"n": 280, "p95_ms": pytest.approx(exact_p95(lengths)), "total_ms": pytest.approx(sum(lengths))}
    assert ask(api(one), str(two.data)) == [expected], "what the killed one acknowledged counts"
    done = CliRunner().invoke(cli, ["sql", P95, "--data", api(one), "--data", api(two)])
    assert done.exit_code != 0
    assert api(two) in str(done.exception)
    report = CliRunner().invoke(cli, ["report", "--json", "--data", api(one), "--data", str(two.data)])
    assert report.exit_code == 0, report.output


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two folders, each with sealed rows and with rows that are not, to be read only."""
    found = []
    for number in range(2):
        data = tmp_path_factory.mktemp("folders") / f"data{number}"
        with open_database(data) as connection:
            land(connection, traces(30, seed=number))
            seal(connection, data)
            land(connection, traces(10, seed=10 + number))
        found.append(data)
    return found


def test_folders_are_read_with_their_sealed_files_which_have_names_of_their_own(folders: list[Path]) -> None:
    names = [{path.name for path in data.glob("sealed/*/*")} for data in folders]
    assert not names[0] & names[1]
    with SeveralReader(folders) as reader:
        assert reader.query("select count(*) as n from spans").to_pylist() == [{"n": 80}]
        assert reader.query("select count(*) as n from span_events").to_pylist() == [{"n": 80}]
        (row,) = reader.query("select trace_id::varchar as id from spans order by hash(trace_id) limit 1").to_pylist()
        assert reader.query(f"select count(*) as n from trace('{row['id']}')").to_pylist() == [{"n": 1}]
        assert reader.query("select count(*) > 0 as any from coverage").to_pylist() == [{"any": True}]


def test_only_what_a_question_needs_is_asked_of_a_running_collector(pair: tuple[Collector, Collector]) -> None:
    with SeveralReader([api(one) for one in pair]) as reader:
        since = datetime(2026, 1, 1, tzinfo=UTC)
        sql = "select route, max(total_ms) from requests where started >= $since and tenant = 'a' group by all"
        scans = reader._scans(sql, {"since": since})
        assert set(scans) == {("api0", "requests"), ("api1", "requests")}
        asked = reader._question(("api0", "requests"), scans["api0", "requests"])
        columns = asked.split(" from ")[0].removeprefix("select ")
        assert set(columns.split(", ")) == {'"started"', '"route"', '"tenant"', '"total_ms"'}
        assert "2026-01-01" in asked
        assert "tenant = 'a'" in asked
        assert set(reader._scans("select count(*) from spans", {})) == {("api0", "spans"), ("api1", "spans")}
        assert reader.query(sql, {"since": since + timedelta(days=1)}).num_rows == 0


def test_an_error_of_the_question_is_one(folders: list[Path]) -> None:
    with SeveralReader(folders) as reader:
        with pytest.raises(QueryError, match="nowhere"):
            reader.query("select * from nowhere")
        assert reader.query("select 1 as one").to_pylist() == [{"one": 1}]


def test_a_folder_that_a_collector_has_open_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with collector(tmp_path / "one", free_bytes=0) as running:
        with pytest.raises(QueryError) as caught:
            SeveralReader([running.data, running.data])
        assert "use its API" in caught.value.hint


def test_settings_may_list_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: list[Path]) -> None:
    monkeypatch.chdir(tmp_path)
    listed = ", ".join(f'"{folder}"' for folder in folders)
    (tmp_path / "tailbudget.toml").write_text(f"[sql]\ndata = [{listed}]\nform = 'json'\n")
    from tailbudget.app.config import defaults

    assert defaults(cli, tmp_path / "tailbudget.toml")["sql"]["data"] == [str(folder) for folder in folders]
