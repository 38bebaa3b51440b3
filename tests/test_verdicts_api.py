"""A verdict through a collector's API is the one that a connection to its file gives."""

from collections.abc import Callable
from functools import partial

import pyarrow as pa
import pytest

from tailbudget.analytics.blame import QUESTIONS, blame
from tailbudget.analytics.compare import Side, compare
from tailbudget.analytics.drill import drill
from tailbudget.analytics.reader import ApiReader, ConnectionReader, Reader
from tailbudget.analytics.sag import alarms, likely_cause, scopes
from tailbudget.analytics.whatif import shares, what_if

from .local_api import local_api
from .spans import assemble, database, later
from .test_blame import BASELINE, HOUR_S, WINDOW, chat
from .test_sag_detector import T0, bins_of, latched

SERIES, TWIN = "m|p|i|server|token", "m|p|j|server|token"
VERDICTS: dict[str, Callable[[Reader], object]] = {
    **{by: partial(blame, window=WINDOW, baseline=BASELINE, by=by) for by in QUESTIONS},
    "compare": lambda reader: compare(reader, Side(BASELINE), Side(WINDOW, "tenant", "acme")),
    "drill": lambda reader: drill(reader, WINDOW, slower_than_ms=500),
    "what_if": lambda reader: what_if(reader, WINDOW, stage="decode", budget_ms=300),
    "shares": lambda reader: shares(reader, WINDOW, budgets_ms={"decode": 300, "retrieval": 10}),
    "alarms": lambda reader: alarms(reader).to_pylist(),
    "scopes": lambda reader: scopes(reader, [SERIES, TWIN], since=T0),
}


@pytest.fixture(scope="module")
def readers() -> tuple[Reader, dict[str, object]]:
    connection = database()
    spans = []
    for n in range(1, 121):
        tenant = "acme" if n % 4 == 0 else "other"
        spans += chat(n, 5 * n, tenant=tenant, decode_ms=200)
        spans += chat(n + 200, HOUR_S + 4 * n, tenant=tenant, decode_ms=800 if tenant == "acme" else 200)
    assemble(connection, spans)
    for series in (SERIES, TWIN):
        bins = bins_of(3, 600, streams=lambda n: 8, token_s=latched, series=series)
        connection.register("given", pa.Table.from_pylist(bins))
        connection.execute(
            """insert into decode_rate by name
               select *, 'p' as provider, series[5:5] as instance, 'server' as side, 'token' as unit from given"""
        )
    direct = ConnectionReader(connection)
    with local_api(connection) as url:
        through = {name: verdict(ApiReader(url)) for name, verdict in VERDICTS.items()}
        through["cause"] = likely_cause(ApiReader(url), SERIES, opened=later(0))
    return direct, through


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict_is_the_same_through_the_api(name: str, readers: tuple[Reader, dict[str, object]]) -> None:
    direct, through = readers
    expected = VERDICTS[name](direct)
    assert expected
    assert through[name] == expected


def test_no_cause_is_none_through_the_api_too(readers: tuple[Reader, dict[str, object]]) -> None:
    direct, through = readers
    assert likely_cause(direct, SERIES, opened=later(0)) is None
    assert through["cause"] is None
