"""`tailbudget sag test` prints what the detector finds in a Parquet file of bins, in the form that is promised."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tailbudget.app.cli import cli, run

from .test_sag_detector import T0, Bin, bins_of, latched, steady


@pytest.fixture(scope="module")
def slow_and_fine() -> list[Bin]:
    slow = bins_of(8, 600, streams=lambda n: 8, token_s=latched, series="slow")
    return slow + bins_of(9, 600, streams=lambda n: 8, token_s=steady, series="fine")


def test_every_series_has_an_object_and_its_alarms_are_in_utc(slow_and_fine: list[Bin], tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(slow_and_fine), tmp_path / "bins.parquet")
    done = CliRunner().invoke(cli, ["sag", "test", str(tmp_path / "bins.parquet"), "--json"])
    fine, slow = json.loads(done.stdout)
    assert fine == {"series": "fine", "alarms": []}
    (alarm,) = slow["alarms"]
    assert list(alarm) == ["opened", "closed", "slowdown"]
    assert alarm["closed"] is None
    assert alarm["opened"].endswith("Z")
    sag_start = f"{T0 + timedelta(seconds=5400):%Y-%m-%dT%H:%M:%S}"
    assert sag_start < alarm["opened"] < f"{T0 + timedelta(seconds=5600):%Y-%m-%dT%H:%M:%S}"
    assert 1.5 < alarm["slowdown"] < 2.5


def test_what_comes_later_changes_nothing_but_the_end(slow_and_fine: list[Bin], tmp_path: Path) -> None:
    def alarms(count: int) -> list[tuple[str, float]]:
        pq.write_table(pa.Table.from_pylist(slow_and_fine[:count]), tmp_path / "bins.parquet")
        done = CliRunner().invoke(cli, ["sag", "test", str(tmp_path / "bins.parquet"), "--json"])
        return [(alarm["opened"], alarm["slowdown"]) for one in json.loads(done.stdout) for alarm in one["alarms"]]

    whole = alarms(600)
    assert len(whole) == 1
    # 5,400 s into the series it latches; each cut is a live moment.
    assert [alarms(count) for count in (541, 560, 580)] == [[], whole, whole]


def test_people_get_a_line_an_alarm(slow_and_fine: list[Bin], tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(slow_and_fine), tmp_path / "bins.parquet")
    text = CliRunner().invoke(cli, ["sag", "test", str(tmp_path / "bins.parquet")]).stdout
    assert "slow" in text
    assert "engine" in text
    assert text.endswith("alarms in 1 of 2 series\n")
    pq.write_table(pa.Table.from_pylist(slow_and_fine[600:]), tmp_path / "bins.parquet")
    assert CliRunner().invoke(cli, ["sag", "test", str(tmp_path / "bins.parquet")]).stdout == "no alarm in 1 series\n"


FORMS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "in nanoseconds, as pandas writes them": lambda bins: _typed(bins, t=pa.timestamp("ns", "UTC")),
    "of a naive clock": lambda bins: _typed(bins, t=pa.timestamp("ms")),
    "of another zone": lambda bins: _typed(bins, t=pa.timestamp("us", "Asia/Tokyo")),
    "as categories": lambda bins: bins.set_column(0, "series", bins["series"].dictionary_encode()),
    "as decimals": lambda bins: _typed(bins, tokens=pa.decimal128(20, 6), active_stream_s=pa.decimal128(20, 6)),
    "in any order": lambda bins: bins.sort_by([("tokens", "ascending")]),
    "with other capitals": lambda bins: bins.rename_columns([name.title() for name in bins.column_names]),
    "twice": lambda bins: pa.concat_tables([bins, bins]),
}


def _typed(bins: pa.Table, **types: pa.DataType) -> pa.Table:
    fields = [pa.field(one.name, types.get(one.name, one.type)) for one in bins.schema]
    return bins.cast(pa.schema(fields), safe=False)


def _told(bins: pa.Table, folder: Path) -> list[tuple[str, list[str]]]:
    """Return what is said of each series: its name, and when its alarms opened."""
    pq.write_table(bins, folder / "bins.parquet")
    done = CliRunner().invoke(cli, ["sag", "test", str(folder / "bins.parquet"), "--json"])
    return [(one["series"], [alarm["opened"] for alarm in one["alarms"]]) for one in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def plain(slow_and_fine: list[Bin], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, list[str]]]:
    return _told(pa.Table.from_pylist(slow_and_fine), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("form", FORMS)
def test_the_same_bins_in_another_form_give_the_same_alarms(
    form: str, plain: list[tuple[str, list[str]]], slow_and_fine: list[Bin], tmp_path: Path
) -> None:
    assert [len(opened) for _, opened in plain] == [0, 1]
    assert _told(FORMS[form](pa.Table.from_pylist(slow_and_fine)), tmp_path) == plain


@pytest.mark.parametrize(("kept", "series"), [(0, []), (1, ["slow"]), (30, ["slow"])])
def test_bins_too_few_for_a_baseline_are_no_alarm(
    kept: int, series: list[str], slow_and_fine: list[Bin], tmp_path: Path
) -> None:
    assert _told(pa.Table.from_pylist(slow_and_fine).slice(0, kept), tmp_path) == [(name, []) for name in series]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokens": None}, "1 bin.* with a null, NaN, infinite or negative value"),
        ({"active_stream_s": float("nan")}, "1 bin.* with a null"),
        ({"tokens": -1.0}, "1 bin.* with a null"),
        ({"t": "yesterday"}, "column 't' of .* is VARCHAR"),
    ],
)
def test_a_bin_that_makes_no_sense_is_one_line(
    change: Bin, reason: str, slow_and_fine: list[Bin], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {**slow_and_fine[0], **change}
    rows = [wrong] if "t" in change else [wrong, slow_and_fine[1]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bins.parquet")
    assert run(["sag", "test", str(tmp_path / "bins.parquet")]) == 1
    _one_line(capsys.readouterr().err, reason)


def test_a_file_that_is_none_or_holds_something_else_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sag", "test", str(tmp_path / "nothing.parquet")]) == 1
    _one_line(capsys.readouterr().err, "no file '.*nothing.parquet'")
    (tmp_path / "text.parquet").write_text("series,t\n")
    assert run(["sag", "test", str(tmp_path / "text.parquet")]) == 1
    _one_line(capsys.readouterr().err, "cannot be read as Parquet")
    pq.write_table(pa.table({"series": ["a"]}), tmp_path / "other.parquet")
    assert run(["sag", "test", str(tmp_path / "other.parquet")]) == 1
    _one_line(capsys.readouterr().err, "has no column 't'")


def _one_line(said: str, reason: str) -> None:
    assert len(said.splitlines()) == 1
    assert re.search(reason, said), said
    assert "expected series VARCHAR" in said
