"""Hours that are over go to an S3-compatible store exactly once, whatever step of the upload a kill meets."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from tailbudget.analytics.reader import DATABASE_NAME
from tailbudget.collector.lake.manifest import Lake
from tailbudget.collector.store.tables import tables

from .scale_support import HOST, ROOT, process
from .scale_upload import DIED
from .seed import empty, seed
from .support import free_port, wait_until

pytest.importorskip("sqlglot", reason="the extra `scale` is not installed: make test-scale")
pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]

NOW = datetime.now(UTC)
LATER = (NOW + timedelta(hours=2)).isoformat()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Give the port of moto's S3."""
    pytest.importorskip("moto", reason="moto, an S3-compatible server, is not installed: make test-scale")
    port, log = free_port(), tmp_path_factory.mktemp("s3") / "log"
    arguments = (sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port))

    def answers() -> bool:
        assert running.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/moto-api/data.json", timeout=5) as answer:
                return int(answer.status) == 200
        except OSError:
            return False

    with process(*arguments, log=log) as running:
        wait_until(answers)
        yield port


@pytest.fixture
def bucket(server: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Give the address of a prefix in a new bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"b{abs(hash(request.node.name))}"
    made = urllib.request.Request(f"http://{HOST}:{server}/{name}", method="PUT")
    with urllib.request.urlopen(made, timeout=120) as answer:
        assert answer.status == 200
    return f"s3://{name}/telemetry?endpoint_override={HOST}:{server}&scheme=http"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with empty(folder) as connection:
        connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
        seed(connection, ended=NOW, minutes=1)
    return folder


def _upload(data: Path, url: str, *, now: str = LATER, step: int | None = None) -> int:
    given = [str(data), url, now, *([] if step is None else [str(step)])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.scale_upload", *given], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode in (0, DIED), done.stderr
    return done.returncode


def _here(data: Path) -> dict[str, list[str]]:
    with duckdb.connect(str(data / DATABASE_NAME), read_only=True) as connection:
        connection.execute("set timezone = 'UTC'")
        return {name: _texts([connection.sql(f"from {name}").to_arrow_table()]) for name in tables()}


def _there(url: str) -> dict[str, list[str]]:
    """Return the rows of all listed files, each of which must be there and whole."""
    lake = Lake(url)
    return {name: _texts(lake.read(name)) for name in tables()}


def _texts(files: list[pa.Table]) -> list[str]:
    """Return each row as text, sorted; an instant is one whatever its zone is called."""
    rows = [row for file in files for row in file.to_pylist()]
    return sorted(
        str({name: value.timestamp() if isinstance(value, datetime) else value for name, value in row.items()})
        for row in rows
    )


def test_a_kill_at_each_step_of_the_upload_loses_nothing_and_doubles_nothing(data: Path, bucket: str) -> None:
    expected = _here(data)
    died = 0
    for step in range(1, 500):
        url = bucket.replace("telemetry", f"step{step}")
        status = _upload(data, url, step=step)
        listed = _there(url)
        for name, rows in listed.items():
            assert set(rows) <= set(expected[name])
            assert len(rows) <= len(expected[name])
        if status == 0:
            break
        died += 1
        assert _upload(data, url) == 0
        assert _there(url) == expected
    assert died >= 20
    assert _there(url) == expected


def test_an_hour_that_changed_is_listed_once_as_it_is_now(data: Path, bucket: str, tmp_path: Path) -> None:
    copy = tmp_path / DATABASE_NAME
    copy.write_bytes((data / DATABASE_NAME).read_bytes())
    assert _upload(tmp_path, bucket) == 0
    first = {one.file for one in Lake(bucket).manifests()["c0ffee00"].files}
    with duckdb.connect(str(copy)) as connection:
        connection.execute("update requests set tenant = 'renamed'")
    assert _upload(tmp_path, bucket) == 0
    assert _there(bucket) == _here(tmp_path)
    assert "renamed" in _there(bucket)["requests"][0]
    second = {one.file for one in Lake(bucket).manifests()["c0ffee00"].files}
    assert {file.split("/")[0] for file in second - first} == {"requests"}


def test_two_collectors_seal_side_by_side(data: Path, bucket: str, tmp_path: Path) -> None:
    copy = tmp_path / DATABASE_NAME
    copy.write_bytes((data / DATABASE_NAME).read_bytes())
    with duckdb.connect(str(copy)) as connection:
        connection.execute("update meta set collector_id = 'beef0000'")
    for folder in (data, tmp_path):
        assert _upload(folder, bucket) == 0
    assert set(Lake(bucket).manifests()) == {"c0ffee00", "beef0000"}
    assert len(_there(bucket)["requests"]) == 2 * len(_here(data)["requests"])


def test_an_hour_that_is_not_over_is_not_sealed(data: Path, bucket: str) -> None:
    assert _upload(data, bucket, now=(NOW - timedelta(hours=1)).isoformat()) == 0
    assert _there(bucket)["requests"] == []
