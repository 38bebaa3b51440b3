"""When tokens come slower than load and the recent past explain, an alarm opens, and only then."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.sag import COLUMNS, SagSettings, alarms, sag
from tailbudget.instrument.errors import UserError

from .spans import Row

T0 = datetime(2026, 3, 1, 12, 7, 30, tzinfo=UTC)
DEMO = SagSettings(1, 240, 30, 30, 15)
Bin = dict[str, object]


def bins_of(
    seed: int,
    count: int,
    *,
    streams: Callable[[int], float],
    token_s: Callable[[int, float], float],
    noise: float = 0.04,
    idle: float = 0.0,
    series: str = "m|p|127.0.0.1:8000|server|token",
) -> list[Bin]:
    """Return bins of 10 s: `streams(n)` at once on average, each token taking `token_s(n, streams)` seconds."""
    rng = np.random.default_rng(seed)
    bins: list[Bin] = []
    for n in range(count):
        if rng.random() < idle:
            continue
        at_once = max(0.05, streams(n) * rng.gamma(9, 1 / 9))
        active_s = 10 * at_once
        tokens = rng.poisson(active_s / (token_s(n, at_once) * np.exp(noise * rng.normal())))
        bins.append(
            {
                "series": series,
                "t": T0 + timedelta(seconds=10 * n),
                "tokens": float(tokens),
                "active_stream_s": float(active_s),
                "streams": float(at_once),
            }
        )
    return bins


def judged(bins: list[Bin], settings: SagSettings) -> list[Row]:
    """Return the alarms over these bins, times as seconds since T0."""
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.register("given", pa.Table.from_pylist(bins))
    connection.execute("create table bins as from given")
    found: list[Row] = alarms(ConnectionReader(connection), bins="bins", settings=settings).to_pylist()
    for alarm in found:
        for name in ("opened", "closed"):
            alarm[name] = alarm[name] and (alarm[name] - T0).total_seconds()
    return found


def steady(n: int, streams: float) -> float:
    """30 ms a token, and 4 ms more for each stream beside it."""
    return 0.026 + 0.004 * streams


@pytest.mark.parametrize("seed", range(5))
def test_a_steady_series_raises_no_alarm(seed: int) -> None:
    assert judged(bins_of(seed, 1080, streams=lambda n: 4 + 3 * np.sin(n / 60), token_s=steady), SagSettings()) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_throttled_decode_in_a_low_traffic_demo_is_found_within_thirty_seconds_and_never_before(seed: int) -> None:
    def throttled(n: int, streams: float) -> float:
        return steady(n, streams) * (2.5 if 27 <= n < 36 else 1)

    bins = bins_of(seed, 48, streams=lambda n: 1.0, token_s=throttled, noise=0.06, idle=0.1)
    first, *_ = judged(bins, DEMO)
    assert 270 < first["opened"] <= 310
    assert first["closed"] is None or first["closed"] > 360
    assert (first["severity"], first["slowdown"] > 1.8) == ("page", True)


@pytest.mark.parametrize("seed", range(5))
def test_twice_the_load_is_no_sag_while_the_rate_a_stream_holds(seed: int) -> None:
    bins = bins_of(seed, 1080, streams=lambda n: 4 if n < 720 else 8, token_s=lambda n, streams: 0.03)
    assert judged(bins, SagSettings()) == []


@pytest.mark.parametrize("seed", range(5))
def test_twice_the_load_is_no_sag_while_contention_is_as_usual(seed: int) -> None:
    bins = bins_of(seed, 1080, streams=lambda n: (4 + 3 * np.sin(n / 60)) * (1 if n < 720 else 2), token_s=steady)
    assert judged(bins, SagSettings()) == []


def latched(n: int, streams: float) -> float:
    """A real engine whose step went from 31.3 to 62.1 ms and stayed there, whatever the load."""
    return 0.0003 * streams + (0.031 if n < 540 else 0.0618)


def test_a_latched_step_is_found_with_the_default_settings_and_blamed_on_the_engine() -> None:
    (alarm,) = judged(bins_of(3, 600, streams=lambda n: 8 + 4 * np.sin(n / 30), token_s=latched), SagSettings())
    assert 5400 < alarm["opened"] <= 5400 + 200
    assert (alarm["closed"], alarm["cause"], alarm["severity"]) == (None, "engine", "page")
    assert 1.7 < alarm["slowdown"] < 2.3


def test_streams_that_cost_each_other_more_are_contention() -> None:
    def crowded(n: int, streams: float) -> float:
        return 0.02 + (0.001 if n < 540 else 0.006) * streams

    (alarm,) = judged(bins_of(4, 600, streams=lambda n: 8 + 6 * np.sin(n / 12), token_s=crowded), SagSettings())
    assert alarm["cause"] == "contention"


def test_an_alarm_closes_when_the_rate_is_back() -> None:
    def sagging(n: int, streams: float) -> float:
        return steady(n, streams) * (2 if 500 <= n < 560 else 1)

    (alarm,) = judged(bins_of(5, 700, streams=lambda n: 4, token_s=sagging), SagSettings())
    assert 5000 < alarm["opened"] < 5300
    assert 5600 < alarm["closed"] <= 5900


@pytest.mark.parametrize(
    ("settings", "streams"),
    [(DEMO, 1.5), (SagSettings(), 1.5), (SagSettings(8, 1500, 100, 100, 10), 0.2)],
    ids=["demo", "default", "several bins a bucket"],
)
def test_no_alarm_depends_on_a_later_bin(settings: SagSettings, streams: float) -> None:
    def sagging(n: int, at_once: float) -> float:
        return steady(n, at_once) * (1.8 if n % 500 > 440 else 1)

    bins = bins_of(6, 1000, streams=lambda n: streams, token_s=sagging, noise=0.1, idle=0.2)
    whole = [(alarm["opened"], alarm["closed"]) for alarm in judged(bins, settings)]
    assert whole
    ends = [10 + (given["t"] - T0).total_seconds() for given in bins]  # type: ignore[operator]
    for length, end in enumerate(ends, start=1):
        if length % 97 and not any(abs(end - opened) <= 60 for opened, _ in whole):
            continue
        seen = [(opened, closed if closed and closed <= end else None) for opened, closed in whole if opened <= end]
        assert [(alarm["opened"], alarm["closed"]) for alarm in judged(bins[:length], settings)] == seen


def test_the_answer_has_the_promised_columns_and_keeps_series_apart() -> None:
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    slow = bins_of(8, 600, streams=lambda n: 8, token_s=latched, series="slow")
    fine = bins_of(9, 600, streams=lambda n: 8, token_s=steady, series="fine")
    connection.register("given", pa.Table.from_pylist(slow + fine))
    connection.execute("create table decode_rate as from given")
    answer = sag(ConnectionReader(connection))
    assert tuple(answer.column_names) == COLUMNS
    assert answer["series"].to_pylist() == ["slow"]


def test_settings_are_read_from_a_line_of_numbers() -> None:
    assert SagSettings.parse("1,240,30,30,15") == DEMO
    assert SagSettings.parse("") == SagSettings()
    assert SagSettings.parse("5, 3600, 300, 300, 15, 0.2").threshold == 0.2


@pytest.mark.parametrize("text", ["fast", "1,2,3,4,5,6,7", "1,,3", "0,240", "nan"])
def test_settings_that_make_no_sense_are_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(UserError, match="expected"):
        SagSettings.parse(text)


def test_bins_are_named_not_injected() -> None:
    with pytest.raises(UserError, match="expected the name of a table"):
        sag(ConnectionReader(duckdb.connect()), "decode_rate; drop table alerts")


@pytest.mark.parametrize("seed", range(3))
def test_the_end_of_a_sag_raises_no_second_alarm(seed: int) -> None:
    def sagging(n: int, streams: float) -> float:
        return steady(n, streams) * (1.6 if 500 <= n < 740 else 1)

    (alarm,) = judged(bins_of(seed, 1500, streams=lambda n: 4, token_s=sagging), SagSettings())
    assert 5000 < alarm["opened"] <= 5150
    assert 7400 < alarm["closed"] <= 7600


def test_what_stays_slow_becomes_the_usual_within_three_hours() -> None:
    (alarm,) = judged(bins_of(7, 1900, streams=lambda n: 8 + 4 * np.sin(n / 30), token_s=latched), SagSettings())
    assert 5400 + 3600 < alarm["closed"] < 5400 + 3 * 3600


def test_what_is_counted_and_how_often_does_not_matter() -> None:
    bins = bins_of(3, 600, streams=lambda n: 8 + 4 * np.sin(n / 30), token_s=latched)
    chunks = [{**given, "tokens": given["tokens"] / 4} for given in bins]  # type: ignore[operator]
    (first,), (second,) = judged(bins, SagSettings()), judged(chunks, SagSettings())
    assert (first["opened"], first["cause"]) == (second["opened"], second["cause"])
    assert first["slowdown"] == pytest.approx(second["slowdown"])


def test_a_large_sag_does_not_hide_a_smaller_one_that_follows() -> None:
    def sagging(n: int, streams: float) -> float:
        return steady(n, streams) * (1.8 if 500 <= n < 680 else 1.3 if 740 <= n < 830 else 1)

    large, small = judged(bins_of(2, 900, streams=lambda n: 4, token_s=sagging), SagSettings())
    assert 5000 < large["opened"] < 5150
    assert large["closed"] < 7000
    assert 7400 < small["opened"] < 7700
