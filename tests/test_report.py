"""`tailbudget report` shows percentiles by stage and by any segment, from the collector or from a data folder."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tailbudget.app.cli import run
from tailbudget.instrument.vocabulary import STAGES

from .local_api import local_api
from .seed import empty, seed


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with empty(Path(tmp_path_factory.mktemp("data"))) as connection:
        seed(connection, ended=datetime.now(UTC))
        with local_api(connection) as address:
            yield address


def test_people_read_a_line_and_a_table_a_breakdown(api: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "--api", api, "--by", "stage,tenant,slo.nothing"]) == 0
    summary, stages, tenants, nothing = capsys.readouterr().out.split("\n\n")
    assert " requests: total p50 " in summary
    assert "within their budget" in summary
    assert [line.split()[0] for line in stages.splitlines()[3:-1]] == list(STAGES)
    assert tenants.splitlines()[0] == "total_ms of requests by tenant"
    assert {line.split()[0] for line in tenants.splitlines()[3:-1]} == {"acme", "globex", "initech"}
    assert "(not told)" in nothing


def test_json_has_every_figure_with_its_n(api: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "--api", api, "--since", "10m", "--by", "stage,model", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["from"].endswith("Z")
    stages, models = found["breakdowns"]
    assert [row["stage"] for row in stages["rows"]] == list(STAGES)
    (model,) = models["rows"]
    assert (models["by"], models["of"]) == ("model", "requests")
    assert model["n"] == found["all"]["n"]
    assert model["p95_ms"] == found["all"]["p95_ms"]


def test_a_time_without_requests_says_so(api: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "--api", api, "--since", "1s"]) == 0
    assert capsys.readouterr().out.startswith("no requests from ")


def test_a_data_folder_without_a_collector_answers_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with empty(tmp_path) as connection:
        connection.execute("insert into meta values (1, 0, 0, null)")
        seed(connection, ended=datetime.now(UTC), minutes=2)
    assert run(["report", "--data", str(tmp_path), "--by", "route"]) == 0
    assert "total_ms of requests by route" in capsys.readouterr().out


def test_an_unknown_measure_is_one_line(api: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "--api", api, "--measure", "cost"]) == 1
    assert capsys.readouterr().err.startswith("tailbudget: unknown measure 'cost': expected one of total_ms")
