"""The decode rate is sum over sum, beside the rate that load and the trailing baseline lead to expect."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tailbudget.analytics import token_rate
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.sag import SagSettings
from tailbudget.analytics.window import Window

from .seed import INSTANCE, MODEL, Row, Seeded, empty, seed

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
    assert None not in expected[17:]


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
