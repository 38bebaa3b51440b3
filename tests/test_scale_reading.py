"""Commands and the dashboard say the same whether DuckDB answers or a ClickHouse with the same rows."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from tailbudget.analytics.latency import latency_bands
from tailbudget.analytics.reader import ConnectionReader, FileReader
from tailbudget.analytics.slices import Sliced, touching
from tailbudget.analytics.window import Window
from tailbudget.app.cli import cli
from tailbudget.collector.seal.retention import Keep
from tailbudget.collector.store.tables import definitions, tables

from .scale_support import clickhouse, same
from .seed import empty, seed
from .seed_more import furnish
from .test_app_pages import PAGES, _script

pytest.importorskip("sqlglot", reason="the extra `scale` is not installed: make test-scale")
pytest.importorskip("chdb", reason="chdb, ClickHouse's engine, is not installed: make test-scale")
pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]

ENDED = datetime.now(UTC).replace(second=0, microsecond=0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Give a data folder, and the address of a ClickHouse with the same rows."""
    from tailbudget.collector.engines.clickhouse import connect

    folder = tmp_path_factory.mktemp("reading")
    data = folder / "data"
    data.mkdir()
    with empty(data) as connection, clickhouse(folder / "clickhouse") as (address, _):
        connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
        furnish(connection, seed(connection, ended=ENDED))
        client, local = connect(address), ConnectionReader(connection)
        for statement in definitions(Keep()):
            client.command(statement)
        for name, one in tables().items():
            rows = local.query(f"from {name}")
            if rows.num_rows:
                version = pa.array([1] * rows.num_rows, pa.uint64())
                client.insert_arrow(one.table, rows.append_column("_version", version))
        connection.close()
        yield data, address


def _said(*arguments: str) -> str:
    result = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _both(stored: tuple[Path, str], *arguments: str) -> tuple[str, str]:
    data, address = stored
    return _said(*arguments, "--data", str(data)), _said(*arguments, "--reader", "clickhouse", "--url", address)


WINDOW = ("--from", (ENDED - timedelta(minutes=10)).isoformat(), "--to", ENDED.isoformat())
BASELINE = ("--baseline-from", (ENDED - timedelta(minutes=15)).isoformat(), "--baseline-to", WINDOW[1])


def test_blame_by_a_value_says_the_same(stored: tuple[Path, str]) -> None:
    local, remote = _both(stored, "blame", *WINDOW, *BASELINE, "--by", "tenant", "--json")
    assert json.loads(local)
    assert same(json.loads(local), json.loads(remote))


@pytest.mark.parametrize("condition", ["route = '/chat'", touching("demo"), touching("demo", "billing.internal:443")])
def test_some_requests_alone_are_the_same(stored: tuple[Path, str], condition: str) -> None:
    from tailbudget.collector.engines.clickhouse import ClickHouseReader

    window = Window(ENDED - timedelta(minutes=10), ENDED, slice=condition)
    found = latency_bands(Sliced(FileReader(stored[0]), [window]), window, bucket_s=60).to_pylist()
    assert len(found) > 5
    assert same(found, latency_bands(Sliced(ClickHouseReader(stored[1]), [window]), window, bucket_s=60).to_pylist())


def test_diagnoses_are_the_same(stored: tuple[Path, str]) -> None:
    local, remote = (json.loads(text) for text in _both(stored, "diagnose", "--since", "1h", "--json"))
    assert {row["rule"] for row in local} > {"kv_pressure", "no_pooling"}
    assert [_settled(row) for row in remote] == [_settled(row) for row in local]


def _settled(row: dict[str, Any]) -> dict[str, Any]:
    """Return a finding without what depends on the second in which it was asked for."""
    return {name: row[name] for name in ("rule", "scope", "severity", "advice")}


@pytest.mark.parametrize("page", PAGES)
def test_every_page_asks_the_engine(stored: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    from streamlit.testing.v1 import AppTest

    monkeypatch.setitem(os.environ, "TAILBUDGET_READER", "clickhouse")
    monkeypatch.setitem(os.environ, "TAILBUDGET_URL", stored[1])
    monkeypatch.setitem(os.environ, "TAILBUDGET_API", "http://127.0.0.1:1")  # nobody answers there
    shown: Any = AppTest.from_function(_script, args=(page,), default_timeout=120).run()
    assert not shown.exception
    assert not shown.error  # no question failed


def test_the_dashboard_asks_the_engine(stored: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlit.testing.v1 import AppTest

    from tailbudget.app.dashboard import SCRIPT

    monkeypatch.setitem(os.environ, "TAILBUDGET_READER", "clickhouse")
    monkeypatch.setitem(os.environ, "TAILBUDGET_URL", stored[1])
    monkeypatch.setitem(os.environ, "TAILBUDGET_API", "http://127.0.0.1:1")  # nobody answers there
    page: Any = AppTest.from_file(str(SCRIPT), default_timeout=120).run()
    assert not page.exception
    assert not page.error  # no question failed
    assert any("<b>▲ page · sag</b>" in part.proto.body for part in page.get("html"))
    assert any(len(frame.value) for frame in page.dataframe)


def test_a_question_that_an_engine_cannot_answer_says_so_by_name(stored: tuple[Path, str]) -> None:
    given = ["sql", "select count(*) as n from dirty", "--reader", "clickhouse", "--url", stored[1]]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code != 0
    assert "clickhouse does not answer dirty" in f"{result.output}{result.exception}"


def test_a_reader_without_an_address_says_what_is_expected() -> None:
    result = CliRunner().invoke(cli, ["sql", "select 1", "--reader", "clickhouse"])
    assert result.exit_code != 0
    assert "clickhouse://" in f"{result.output}{result.exception}"
