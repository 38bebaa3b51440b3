"""The decode rate is sum over sum, beside the rate that load and the trailing baseline lead to expect."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tailbudget.analytics import sag, token_rate
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.sag import SagSettings
from tailbudget.analytics.window import Window

from .seed import INSTANCE, MODEL, Row, Seeded, empty, seed
from .seed_more import furnish
from .seed_streams import stream

ENDED = datetime(2026, 3, 1, 12, 15, tzinfo=UTC)
WINDOW = Window(ENDED - timedelta(minutes=15), ENDED)
DEMO = SagSettings(1, 240, 30, 30, 15)
SERVER = f"{MODEL}|smollm2|{INSTANCE}|server|token"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConnectionReader, Seeded]]:
    connection = empty(Path(tmp_path_factory.mktemp("data")))
    yield ConnectionReader(connection), seed(connection, ended=ENDED, gpu=True)
    connection.close()


def _rates(reader: ConnectionReader, *, bucket_s: int) -> list[Row]:
    table = token_rate.token_rate(reader, WINDOW, bucket_s=bucket_s, settings=DEMO)
    return [row for row in table.to_pylist() if row["series"] == SERVER]


def test_a_rate_is_tokens_over_active_stream_seconds_summed_first(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in seeded.rows["decode_rate"]:
        if row["series"] == SERVER:
            bucket = sums[int(row["t"].timestamp() // 60 * 60)]
            bucket[0] += row["tokens"]
            bucket[1] += row["active_stream_s"]
    found = {int(row["t"].timestamp()): row["rate"] for row in _rates(reader, bucket_s=60)}
    assert found == pytest.approx({bucket: tokens / active_s for bucket, (tokens, active_s) in sums.items()})


def test_the_expected_rate_holds_up_while_decoding_is_throttled(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    rows = {int((row["t"] - seeded.started).total_seconds()): row for row in _rates(reader, bucket_s=10)}
    assert rows[300]["expected_rate"] == pytest.approx(rows[300]["rate"], rel=0.1)
    assert rows[620]["rate"] == pytest.approx(rows[620]["expected_rate"] / 2.4, rel=0.1)


def test_nothing_is_expected_before_the_baseline_has_enough_buckets(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, _ = data
    expected = [row["expected_rate"] for row in _rates(reader, bucket_s=10)]
    # 15 buckets of 10 s, of which none of the last 30 s counts.
    assert expected[:17] == [None] * 17
    assert None not in expected[17:70]
    # While and after it was slow the baseline of this short setting holds too few buckets that were not.
    assert expected[75:] == [None] * 15


def test_a_bucket_names_the_alert_that_was_open_in_it(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    flagged = [row["t"] for row in _rates(reader, bucket_s=10) if row["alert_id"]]
    since_s = [(t - seeded.started).total_seconds() for t in flagged]
    assert (min(since_s), max(since_s)) == (630, 730)


def test_the_gpu_clock_shows_its_lowest_value_and_every_reason_to_throttle(
    data: tuple[ConnectionReader, Seeded],
) -> None:
    reader, seeded = data
    found = token_rate.gpu_clock(reader, WINDOW, bucket_s=60).to_pylist()
    slow = [row for row in found if row["throttle"]]
    assert {row["sm_min_mhz"] for row in slow} == {1035.0}
    assert (slow[0]["t"] - seeded.started).total_seconds() == 600
    assert found[0]["n"] == 60


def test_the_band_holds_the_rate_until_decoding_is_throttled(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    rows = [row for row in _rates(reader, bucket_s=10) if row["expected_rate"]]
    since_s = {row["t"]: (row["t"] - seeded.started).total_seconds() for row in rows}
    calm = [row for row in rows if since_s[row["t"]] < 600]
    throttled = [row for row in rows if 600 <= since_s[row["t"]] < 700]
    assert sum(row["slow"] for row in calm) <= 3 < len(calm) / 10
    assert all(row["slow"] for row in throttled)
    assert all(row["low_rate"] < row["expected_rate"] < row["high_rate"] for row in rows)


def test_what_is_expected_is_what_the_detector_judges_by(data: tuple[ConnectionReader, Seeded]) -> None:
    """A sag's slow-down by the detector is that of the rates drawn against the band."""
    reader, seeded = data
    (alarm,) = [row for row in sag.alarms(reader, settings=DEMO).to_pylist() if row["series"] == SERVER]
    rows = [row for row in _rates(reader, bucket_s=10) if 610 <= (row["t"] - seeded.started).total_seconds() < 700]
    slowest = max(row["expected_rate"] / row["rate"] for row in rows)
    assert alarm["slowdown"] == pytest.approx(slowest, rel=0.15)


def test_a_window_too_long_for_the_detector_is_shown_without_a_band(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, _ = data
    week = Window(ENDED - timedelta(days=7), ENDED)
    rows = token_rate.token_rate(reader, week, bucket_s=14_400, settings=DEMO).to_pylist()
    assert rows
    assert {row["expected_rate"] for row in rows} == {None}


def test_a_series_whose_name_begins_another_has_alerts_of_its_own(tmp_path: Path) -> None:
    connection = empty(tmp_path)
    seed(connection, ended=ENDED)
    connection.execute("insert into decode_rate select * replace (series || '9' as series) from decode_rate")
    rows = token_rate.token_rate(ConnectionReader(connection), WINDOW, bucket_s=10, settings=DEMO).to_pylist()
    assert not any(row["alert_id"] for row in rows if row["series"].endswith("9"))
    assert any(row["alert_id"] for row in rows)
    connection.close()


def test_what_holds_a_clock_back_is_in_words_where_it_begins(tmp_path: Path) -> None:
    connection = empty(tmp_path)
    for gpu, bits in (("calm", (0, 1, 0)), ("hot", (0, 0x24, 0x24))):
        for place, bit in enumerate(bits):
            t = WINDOW.from_ts + timedelta(seconds=60 * place)
            connection.execute(
                "insert into gpu by name select $1 as sampled_at, 'box' as host, $2 as gpu, $3 as throttle, true as up",
                [t, gpu, bit],
            )
    found = token_rate.gpu_clock(ConnectionReader(connection), WINDOW, bucket_s=60).to_pylist()
    assert [row["gpu"] for row in found] == ["box hot"] * 3 + ["box calm"] * 3
    assert [row["throttled"] for row in found] == [False, True, True, False, False, False]
    assert [row["spell"] for row in found] == [None, "power cap, heat (software)", None, None, None, None]
    connection.close()


def test_stalled_streams_and_slow_readers_are_counted_in_the_bucket_they_began_in(tmp_path: Path) -> None:
    connection = empty(tmp_path)
    seeded = seed(connection, ended=ENDED)
    furnish(connection, seeded)
    told = {row["request_id"]: row for row in stream(connection, seeded)["calls"]}
    reader = ConnectionReader(connection)
    found = token_rate.stream_trouble(reader, WINDOW, bucket_s=300).to_pylist()
    expected: dict[tuple[str, float], int] = defaultdict(int)
    for row in seeded.rows["requests"]:
        bucket_s = row["started"].timestamp() // 300 * 300
        call = told[row["request_id"]]
        expected["stalled", bucket_s] += bool(call["stalls"])
        expected["slow reader", bucket_s] += call["consumer_ms"] > 0.2 * row["decode_ms"]
    assert {(row["kind"], row["t"].timestamp()): row["troubled"] for row in found} == expected
    assert sum(row["n"] for row in found) == 2 * len(told)
    worst = token_rate.worst_streams(reader, WINDOW, rows=1000).to_pylist()
    assert len(worst) == sum(bool(row["stalls"]) or row["consumer_ms"] > 0.2 * row["decode_ms"] for row in worst) > 10
    lost_ms = [max(row["max_gap_ms"], row["consumer_ms"]) for row in worst]
    assert lost_ms == sorted(lost_ms, reverse=True)
    connection.close()
