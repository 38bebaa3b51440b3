"""Each page says what its data says: on a seeded database, an empty one, and when no collector answers."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import numpy as np
import pyarrow as pa
import pytest
import streamlit as st
from pyarrow import csv
from streamlit.testing.v1 import AppTest

from tailbudget.analytics import diagnoses, drill, gpu, latency, overview, stages, violations
from tailbudget.analytics.compare import Change
from tailbudget.analytics.reader import ApiReader, QueryError
from tailbudget.analytics.resample import Difference
from tailbudget.analytics.window import Box, Window
from tailbudget.app.pages import site
from tailbudget.app.pages.parts import answers, charts, comparisons, controls, diagnosed, fault, saved, tables, words

from .local_api import local_api
from .seed import INSTANCE, MODEL, Seeded, empty, seed
from .seed_more import furnish
from .seed_streams import stream
from .support import free_port
from .test_map import seen, shop

PAGES = (
    "overview", "latency", "stages", "gpu", "coverage", "service_map", "violations", "token_rate", "trace", "diagnoses",
    "capacity", "compare",
)  # fmt: skip


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Seeded]]:
    connection = empty(Path(tmp_path_factory.mktemp("data")))
    rows = seed(connection, ended=datetime.now(UTC) - timedelta(seconds=5), minutes=13)
    furnish(connection, rows)
    stream(connection, rows)
    with local_api(connection) as api:
        yield api, rows
    connection.close()


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    connection = empty(Path(tmp_path_factory.mktemp("nothing")))
    with local_api(connection) as api:
        yield api
    connection.close()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    answers.forget()
    monkeypatch.setenv("TAILBUDGET_SAG", "1,240,30,30,15")


def _script(name: str) -> None:
    import importlib

    from tailbudget.app.pages.parts import controls

    controls.show("page")
    importlib.import_module(f"tailbudget.app.pages.{name}").page()


def _liveness() -> None:
    import streamlit as st

    from tailbudget.app.pages.parts import controls

    controls.show("page")
    st.text(f"live: {controls.is_live()}")


def _unfiltered() -> None:
    from tailbudget.app.pages.parts import controls

    controls.show("Coverage", filters=())


def _run(monkeypatch: pytest.MonkeyPatch, api: str, name: str, **query: str | list[str]) -> AppTest:
    monkeypatch.setenv("TAILBUDGET_API", api)
    app = AppTest.from_function(_script, args=(name,), default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    return app


@cache
def _read(api: str, name: str, **query: str) -> AppTest:
    """Return a page as it was drawn once, to be read only."""
    with pytest.MonkeyPatch.context() as patched:
        return _run(patched, api, name, **query)


def _text(app: AppTest) -> str:
    """Return everything that the page says, cards included."""
    parts: list[Any] = [*app.markdown, *app.caption, *app.info, *app.error, *app.success, *app.warning]
    return "\n".join([*(part.value for part in parts), *(card.proto.body for card in app.get("html"))])


def _charts(app: AppTest) -> int:
    return len(app.get("vega_lite_chart"))


PICTURES = {
    "overview": 3, "latency": 4, "stages": 4, "gpu": 11, "coverage": 1,
    "service_map": 1, "compare": 1, "violations": 4, "token_rate": 5, "trace": 4, "diagnoses": 1, "capacity": 1,
}  # fmt: skip


@pytest.mark.parametrize(("name", "pictures"), PICTURES.items())
def test_a_page_draws_its_pictures_each_with_the_sql_that_gave_it(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded], name: str, pictures: int
) -> None:
    told: dict[str, str] = {}
    tools = charts.tools

    def recorded(frame: pa.Table, title: str, *, name: str, hover: str | None = None) -> None:
        told[name] = answers.asked(frame)
        tools(frame, title, name=name, hover=hover)

    for place in (charts, tables):
        monkeypatch.setattr(place, "tools", recorded)
    assert _charts(_run(monkeypatch, seeded[0], name)) == pictures
    assert len(told) >= pictures
    assert [picture for picture, sql in told.items() if not sql] == []


@pytest.mark.parametrize("name", PAGES)
def test_an_empty_database_says_what_to_do_next(monkeypatch: pytest.MonkeyPatch, nothing: str, name: str) -> None:
    app = _run(monkeypatch, nothing, name)
    hint = "tailbudget.init()" if name in ("token_rate", "gpu") else "your collector's OTLP port (4318 unless"
    assert hint in _text(app)
    assert _charts(app) == 0


@pytest.mark.parametrize("name", [*PAGES, "load", "sql"])
def test_a_collector_that_does_not_answer_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    api = f"http://127.0.0.1:{free_port()}"
    error = next(iter(_run(monkeypatch, api, name).error))
    assert error.value.startswith(f"no collector answers at {api}")


def test_overview_shows_percentiles_with_n_and_open_alerts(seeded: tuple[str, Seeded]) -> None:
    text = _text(_read(seeded[0], "overview", range="1h"))
    n = sum(not row["synthetic"] for row in seeded[1].rows["requests"])
    assert f"p95 total · n {n:,}" in text
    verdicts = re.findall(r'p(\d+) total.*?class="note (\w+)">(▲ )?(\d+) % of 4 s<', text)
    totals = [row["total_ms"] for row in seeded[1].rows["requests"] if not row["synthetic"]]
    shares = {q: np.percentile(totals, q) / 40 for q in (50, 95, 99)}
    assert verdicts == [
        (str(q), "bad" if share > 100 else "good", "▲ " if share > 100 else "", f"{share:.0f}")
        for q, share in shares.items()
    ]
    assert {one[1] for one in verdicts} == {"good", "bad"}
    assert re.search(r'<b>▲ page · sag</b> since <time [^>]*title="[\d-]+ [\d:]+ UTC">', text)
    assert 'href="/token-rate?' in text
    assert "Alerts that ended in this window: 1" in text


def test_a_route_and_a_range_in_the_address_narrow_the_page(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    text = _text(_run(monkeypatch, seeded[0], "overview", route="/summarise", range="1h"))
    n = sum(not row["synthetic"] and row["route"] == "/summarise" for row in seeded[1].rows["requests"])
    assert f"p95 total · n {n:,}" in text


def test_a_tenant_and_a_model_in_the_address_narrow_every_page_and_its_links(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    app = _run(monkeypatch, seeded[0], "overview", range="1h", tenant="acme", model=MODEL)
    found = _latency_link(app)
    n = answers.typed("select count(*) as n from requests where tenant = 'acme' and not synthetic")["n"][0].as_py()
    assert f"p95 total · n {n:,}" in _text(app)
    assert {"tenant=acme", f"model={MODEL}"} <= set(found.split("?")[1].split("&amp;"))
    text = _text(_run(monkeypatch, seeded[0], "latency", range="1h", tenant="nobody", model="none"))
    assert "No request of nobody, none in the last hour: choose a longer range above, or fewer filters." in text


def _links(app: AppTest, path: str) -> list[dict[str, str]]:
    """Return what the address of each link to a page says, in order."""
    found = [urlsplit(unescape(href)) for href in re.findall(r'href="([^"]+)"', _text(app))]
    return [dict(parse_qsl(one.query)) for one in found if one.path == path]


def _latency_link(app: AppTest) -> str:
    """Return the address that the cards of the latency open."""
    found: list[str] = re.findall(r'href="(/latency[^"]+)"', _text(app))
    return found[0]


def test_a_filter_that_a_page_cannot_heed_is_shown_as_such(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    monkeypatch.setenv("TAILBUDGET_API", seeded[0])
    app = AppTest.from_function(_unfiltered, default_timeout=120)
    app.query_params["tenant"] = "acme"
    app.run()
    assert not app.exception
    assert "Not narrowed to tenant acme: what Coverage shows is of all of them." in _text(app)
    assert [app.selectbox(key=name).disabled for name in controls.FILTERS] == [True, True, True]
    by_title = {title: filters for title, _, _, filters in site.PAGES}
    assert by_title["Overview"] == by_title["Violations"] == controls.FILTERS
    assert not by_title["Coverage"]


def test_violations_name_the_stage_to_blame_and_link_to_the_trace(seeded: tuple[str, Seeded]) -> None:
    app = _read(seeded[0], "violations")
    assert "**decode** is to blame" in _text(app) or "**retrieval** is to blame" in _text(app)
    shown = app.dataframe[-1].value
    newest = max(seeded[1].rows["violations"], key=lambda row: row["started"])
    assert shown["trace"].iloc[0] == f"/trace?request={newest['request_id']}"
    assert f"{newest['over_stage']} took" in shown["why"].iloc[0]
    counted = {row["request_id"] for row in seeded[1].rows["requests"] if not row["synthetic"]}
    over = sum(row["request_id"] in counted for row in seeded[1].rows["violations"])
    of = f"**{words.share(over, len(counted))}** of requests over a budget ({over} of n {len(counted)})"
    assert of in _text(_read(seeded[0], "violations", range="1h"))
    begin, end = (
        datetime.fromisoformat(text) for text in re.findall(r"--from (\S+) --to (\S+) --out", app.code[0].value)[0]
    )
    assert end - begin == timedelta(minutes=15)
    assert end <= datetime.now(UTC) + timedelta(seconds=answers.REFRESH_S)


def test_violations_name_the_suspect_and_what_is_left_of_each_budget(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    begin = seeded[1].started + timedelta(seconds=340)
    between = controls.stretch(begin, begin + timedelta(seconds=100))
    app = _run(monkeypatch, seeded[0], "violations", between=between)
    text = _text(app)
    assert "**chat\\-total** · ▲ overspent by 16% · n 41,200" in text
    assert "**answers · acme** · too few to judge by · n 38" in text
    assert app.dataframe[0].value["operation"].iloc[0] == "retrieval bm25"
    shown = app.dataframe[1].value
    blamed = shown[shown["why"].str.startswith("retrieval took")]
    assert len(blamed) > 10
    assert set(blamed["suspect"]) == {"retrieval bm25 of demo"}
    from_text, to_text = between.split("/")
    assert f"tailbudget incident --from {from_text}Z --to {to_text}Z --out ./incident" in app.code[0].value


def test_violations_say_how_long_the_worst_stage_broke_its_budget(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    begin = datetime.fromtimestamp(seeded[1].started.timestamp() // 60 * 60 + 300, UTC)
    between = controls.stretch(begin, begin + timedelta(minutes=5))
    text = _text(_run(monkeypatch, seeded[0], "violations", between=between))
    found = re.search(
        r"for ([\d,]+) of them, .*: ([\d,]+) from ([\d:]+) UTC to ([\d:]+) UTC \((\d) min(?: (\d+) s)?\)", text
    )
    assert found is not None
    slow = [
        row["started"] for row in seeded[1].rows["violations"]
        if row["over_stage"] == "retrieval" and begin <= row["started"] < begin + timedelta(minutes=5)
    ]  # fmt: skip
    assert int(found[1]) == len(slow) >= int(found[2]) > 0.8 * len(slow)
    lasted_s = 60 * int(found[5]) + int(found[6] or 0)
    assert abs(lasted_s - 120) <= 20  # as long as the seed's index is slow, in buckets of 10 s


def test_a_spell_goes_on_over_one_empty_bucket_and_needs_three() -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    minute = timedelta(minutes=1)

    def timeline(*counted: tuple[int, str, int]) -> pa.Table:
        rows = [{"t": at + m * minute, "t2": at + (m + 1) * minute, "stage": s, "n": n} for m, s, n in counted]
        return pa.Table.from_pylist(rows)

    found = timeline((1, "decode", 2), (3, "decode", 2), (4, "queue", 9), (6, "decode", 3), (9, "decode", 9))
    assert fault.spell(found, "decode") == (at + 9 * minute, at + 10 * minute, 9)
    assert fault.spell(found.slice(0, 4), "decode") == (at + minute, at + 4 * minute, 4)
    assert fault.spell(found.slice(0, 1), "decode") is None


def test_the_incident_report_of_a_stretch_comes_as_one_file(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    monkeypatch.setenv("TAILBUDGET_API", seeded[0])
    begin = seeded[1].started + timedelta(seconds=400)
    with zipfile.ZipFile(io.BytesIO(fault._zipped(Window(begin, begin + timedelta(seconds=60))))) as packed:
        assert {"report.md", "queries.sql", "tailbudget.duckdb", "rows/requests.parquet"} <= set(packed.namelist())
        assert "mark: rolled the index back" in packed.read("report.md").decode()


def test_violations_without_a_stage_to_blame_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection = empty(tmp_path)
    seed(connection, ended=datetime.now(UTC), minutes=5)
    connection.execute("update violations set over_stage = null")
    with local_api(connection) as api:
        text = _text(_run(monkeypatch, api, "violations"))
    connection.close()
    assert "no stage stands out in" in text
    assert "to blame" not in text


def test_no_violation_is_said_with_n(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection = empty(tmp_path)
    seed(connection, ended=datetime.now(UTC), minutes=5)
    connection.execute("delete from violations")
    with local_api(connection) as api:
        app = _run(monkeypatch, api, "violations")
        assert next(iter(app.success)).value.startswith("No request over a budget")
    connection.close()


def test_token_rate_shows_the_detectors_settings_and_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = empty(tmp_path)
    seed(connection, ended=datetime.now(UTC))
    with local_api(connection) as api:
        text = _text(_run(monkeypatch, api, "token_rate"))
    connection.close()
    assert "no streamed call began in this range" in text
    assert "buckets of 1 stream-seconds; the expected rate is from the 240 s that ended 30 s before" in text
    assert "No GPU" in text
    assert "seen by the server" in text.split("seen by the client")[0]


def test_streams_without_a_stall_are_said_in_place_of_an_empty_axis(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = empty(tmp_path)
    rows = seed(connection, ended=datetime.now(UTC), minutes=5)
    furnish(connection, rows)
    with local_api(connection) as api:
        app = _run(monkeypatch, api, "token_rate")
    connection.close()
    assert f"**Streams** · no stall and no slow reader in this range · n {len(rows.rows['requests'])}" in _text(app)
    assert not app.dataframe


def test_the_gpu_clock_is_drawn_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection = empty(tmp_path)
    seed(connection, ended=datetime.now(UTC), gpu=True)
    with local_api(connection) as api:
        app = _run(monkeypatch, api, "token_rate")
        assert _charts(app) == 3
        assert "No GPU" not in _text(app)
    connection.close()


def test_the_worst_streams_open_their_traces_and_each_sag_leads_to_its_latency(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    app = _read(seeded[0], "token_rate", range="1h")
    worst = app.dataframe[0].value
    assert worst["trace"].iloc[0].startswith("/trace?request=req-")
    assert worst[["max_gap_ms", "consumer_ms"]].max(axis=1).is_monotonic_decreasing
    closed = next(row for row in seeded[1].rows["alerts"] if row["closed"])
    began, ended = (quote(f"{closed[name]:%Y-%m-%dT%H:%M:%S}") for name in ("opened", "closed"))
    assert f"/latency?range=1h&amp;between={began}%2F{ended}" in _text(app)
    fires = next(row for row in seeded[1].rows["alerts"] if not row["closed"])
    lasts = [one["between"].split("/") for one in _links(app, "/latency") if "between" in one]
    (until,) = (end for begin, end in lasts if begin == f"{fires['opened']:%Y-%m-%dT%H:%M:%S}")
    assert datetime.fromisoformat(f"{until}Z") > seeded[1].ended  # it goes on: up to the window's end
    (throttled,) = re.findall(r"▼ throttled in ([\d.]+) % of the time: heat", _text(app))
    assert 12 < float(throttled) < 25  # two minutes of thirteen, in buckets of one
    rate, tokens, active_s = re.findall(r"([\d.]+) tokens\*\* .* n ([\d,]+) tokens in ([\d,]+) stream-s", _text(app))[0]
    assert float(rate) == pytest.approx(int(tokens.replace(",", "")) / int(active_s.replace(",", "")), rel=0.01)
    monkeypatch.setenv("TAILBUDGET_API", seeded[0])
    sql = "select avg((stalls > 0)::int) as stalled, avg((consumer_ms > 0.2 * decode_ms)::int) as slow from calls"
    stalled, slow = answers.typed(sql).to_pylist()[0].values()
    assert f"**Streams** · {stalled:.1%} stalled, {slow:.1%} slow reader" in _text(app).replace(" %", "%")


def test_a_trace_is_the_one_in_the_address_else_the_slowest(seeded: tuple[str, Seeded]) -> None:
    dropped = next(row for row in seeded[1].rows["requests"] if row["outcome"] == "dropped")
    named = _text(_read(seeded[0], "trace", request=dropped["request_id"]))
    assert ">dropped<" in named
    assert ">left in decode<" in named
    slowest = max(seeded[1].rows["requests"], key=lambda row: row["total_ms"])
    assert slowest["request_id"] in _read(seeded[0], "trace").selectbox[-1].placeholder


def test_a_link_to_a_request_that_the_picker_lists_opens_that_one(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    third = sorted(seeded[1].rows["requests"], key=lambda row: -row["total_ms"])[2]
    app = _run(monkeypatch, seeded[0], "trace", request=third["request_id"])
    assert app.selectbox[-1].value == third["request_id"]
    assert f">{words.duration(third['total_ms'])}<" in _text(app)


def test_a_request_that_is_picked_is_named_in_the_address_by_its_id(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    app = _run(monkeypatch, seeded[0], "trace")
    second = sorted(seeded[1].rows["requests"], key=lambda row: -row["total_ms"])[1]
    app.selectbox[-1].set_value(second["request_id"]).run()
    assert app.query_params["request"] == second["request_id"]
    assert f">{words.duration(second['total_ms'])}<" in _text(app)


def test_a_trace_shows_its_stall_its_network_its_route_and_its_twins(seeded: tuple[str, Seeded]) -> None:
    app = _read(seeded[0], "trace")
    text = _text(app)
    assert "Tokens as they came · n" in text
    assert "joined from 2 spans that told the same" in text
    assert "in the hour around it" in text
    assert "before the server's time" in text
    assert "opentelemetry.instrumentation.openai_v2" in app.dataframe[0].value["told_by"].iloc[0]
    slowest = max(seeded[1].rows["requests"], key=lambda row: row["total_ms"])
    assert app.code[-1].value.endswith(f"/trace?request={slowest['request_id']}")
    assert quote(f"from trace('{slowest['trace_id']}')", safe="").replace("%20", "+") in text
    (around,) = _links(app, "/latency")
    before, after = (slowest["started"] + minutes for minutes in (-timedelta(minutes=5), timedelta(minutes=5)))
    assert (around["route"], around["between"]) == (slowest["route"], controls.stretch(before, after))


def test_a_trace_of_which_no_stream_and_no_network_was_told_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = empty(tmp_path)
    seed(connection, ended=datetime.now(UTC))
    with local_api(connection) as api:
        app = _run(monkeypatch, api, "trace")
        assert "No network phases" in _text(app)
        assert _charts(app) == 2
    connection.close()


def test_a_trace_whose_spans_are_gone_says_so_and_draws_no_empty_axis(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = empty(tmp_path)
    seed(connection, ended=datetime.now(UTC))
    connection.execute("delete from stage_spans")
    with local_api(connection) as api:
        app = _run(monkeypatch, api, "trace")
    connection.close()
    assert "No span of it is left" in app.info[0].value
    assert _charts(app) == 1


def test_where_nothing_is_over_budget_the_slowest_tenth_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    begin = seeded[1].started + timedelta(seconds=20)
    end = begin + timedelta(seconds=250)  # before the slow index
    totals = [row["total_ms"] for row in seeded[1].rows["requests"] if begin <= row["started"] < end]
    assert max(totals) < 4000
    app = _run(monkeypatch, seeded[0], "latency", between=controls.stretch(begin, end))
    assert 0 < len(app.dataframe[0].value) < 0.4 * len(totals)


def test_pages_come_before_tickets_of_which_two_are_shown_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = empty(tmp_path)
    now = seed(connection, ended=datetime.now(UTC), minutes=5).ended
    for severity, minutes in (("ticket", 1), ("page", 2), ("page", 3), ("ticket", 4), ("ticket", 5)):
        opened = now - timedelta(minutes=minutes)
        connection.execute(
            "insert into alerts (alert_id, kind, rule, severity, opened, summary) values (?, 'burn', 'burn', ?, ?, ?)",
            [str(minutes), severity, opened, f"alert {minutes}"],
        )
    with local_api(connection) as api:
        text = _text(_run(monkeypatch, api, "overview"))
    connection.close()
    shown, folded = text.split("<summary>1 more ticket</summary>")
    assert re.findall(r": alert (\d)", shown) == ["2", "3", "1", "4"]
    assert re.findall(r": alert (\d)", folded) == ["5"]


def test_an_alert_leads_to_what_shows_it_and_says_who_took_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection = empty(tmp_path)
    now = seed(connection, ended=datetime.now(UTC), minutes=5).ended
    kinds = {
        "burn": "violations", "sag": "token-rate", "blind": "coverage", "diagnosis": "diagnoses",
        "objectives": "coverage",
    }  # fmt: skip
    connection.execute("delete from alerts")
    for kind in kinds:
        connection.execute(
            "insert into alerts (alert_id, kind, rule, severity, opened, summary) values ($1, $1, $1, 'page', $2, $1)",
            [kind, now],
        )
    connection.execute("update alerts set acknowledged = ?, acknowledged_by = 'ann' where kind = 'burn'", [now])
    with local_api(connection) as api:
        said = _text(_run(monkeypatch, api, "overview")).split('<div class="alert ')[1:]
        shown = _text(_run(monkeypatch, api, "token_rate"))
    connection.close()
    found = {re.findall(r"· (\w+)</b>", one)[0]: one for one in said}
    assert {kind: re.findall(r'href="/([\w-]+)\?', one)[0] for kind, one in found.items()} == kinds
    assert [kind for kind, one in found.items() if "taken by ann at <time" in one] == ["burn"]
    assert re.findall(r"page · (\w+)</b>", shown) == ["sag"]


def test_an_unknown_request_is_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]) -> None:
    app = _run(monkeypatch, seeded[0], "trace", request="req-nobody")
    assert "No request 'req-nobody'" in next(iter(app.warning)).value


def test_lag_is_shown_once_it_is_over_10_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection = empty(tmp_path)
    with local_api(connection) as api:
        for lag_s, expected in ((-60, 0), (60, 1)):  # a minute, since a busy machine takes seconds to draw
            since = datetime.now(UTC) - timedelta(seconds=lag_s)
            connection.execute("delete from dirty")
            connection.execute("insert into dirty values (uuid(), ?, ?, true, null, null)", [since, since])
            answers.forget()
            said = _run(monkeypatch, api, "overview").warning
            assert ["Coverage shows who sends how much" in one.value for one in said] == [True] * expected
    connection.close()


def test_each_objective_has_a_card_with_what_is_left_of_its_budget(seeded: tuple[str, Seeded]) -> None:
    text = _text(_read(seeded[0], "overview"))
    assert "chat-total · p95 of total &lt; 4 s · n 41,200 in 30d" in text
    assert "▲ overspent by 16 %, burns 21.4x · ▲ 2% in 1h" in text
    assert "69 % of the budget left, burns 0.8x" in text
    assert "n 38: too few to judge by" in text


def test_a_card_of_an_objective_has_its_percentiles_and_opens_its_slice(seeded: tuple[str, Seeded]) -> None:
    drawn = _text(_read(seeded[0], "overview", range="1h")).split("<a class=")
    chat = next(card for card in drawn if "chat-total" in card)
    totals = [row["total_ms"] for row in seeded[1].rows["requests"] if not row["synthetic"] and row["route"] == "/chat"]
    p50, p95, p99 = (words.duration(ms) for ms in np.percentile(totals, [50, 95, 99]))
    assert f"p50 <b>{p50}</b>" in chat
    assert f"p95 <b>{p95}</b>" in chat
    assert f"p99 <b class=bad>▲ {p99}</b>" in chat
    assert f"n {len(totals)} in the last hour" in chat
    assert "coverage <b class=bad>▲ 91.2 %</b>" in chat
    assert "still running <b class=bad>▲ 3</b>" in chat
    assert 'href="/latency?range=1h&amp;only=objective+chat-total"' in chat
    answers_card = next(card for card in drawn if "answers · acme" in card)
    assert "only=objective+answers+%C2%B7+acme" in answers_card
    assert '"card small' in answers_card
    assert "coverage" not in answers_card
    first_token = next(card for card in drawn if "first-token" in card)
    assert "coverage <b>100 %</b>" in first_token
    assert ">98.4 % ± 0.4 good<" in first_token


def test_an_objective_of_which_nothing_comes_is_blind_and_opens_coverage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = empty(tmp_path)
    rows = seed(connection, ended=datetime.now(UTC), minutes=5)
    furnish(connection, rows)
    connection.execute("update slo_status set blind_since = ? where objective = 'first-token'", [rows.started])
    with local_api(connection) as api:
        drawn = _text(_run(monkeypatch, api, "overview")).split("<a class=")
        burnt = _text(_run(monkeypatch, api, "violations"))
    connection.close()
    blind = next(card for card in drawn if "first-token" in card)
    overspent = next(card for card in drawn if "answers · acme" in card)
    assert drawn.index(blind) < drawn.index(overspent)  # what fires or sees nothing comes first
    assert '<div class="value">blind</div>' in blind
    assert f"▲ no event since {words.clock(rows.started)}: see Coverage" in blind
    assert 'href="/coverage?' in blind
    assert f"**first\\-token** · ▲ blind since {words.clock(rows.started)} · n" in burnt
    assert burnt.index("**first\\-token**") < burnt.index("**chat\\-total**")  # which overspent its budget


def test_an_objective_that_fires_says_so_however_few_its_requests_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = empty(tmp_path)
    furnish(connection, seed(connection, ended=datetime.now(UTC), minutes=5))
    connection.execute("update slo_status set firing = ['10% in 3d'], budget_left = 0.2 where objective = 'answers'")
    connection.execute("update slo_status set firing = [], budget_left = -0.2 where objective = 'first-token'")
    with local_api(connection) as api:
        drawn = _text(_run(monkeypatch, api, "overview")).split("<a class=")
    connection.close()
    fires = next(card for card in drawn if "answers · acme" in card)
    assert "n 38 in 30d" in fires
    assert re.search(r'<div class="note bad">20 % of the budget left, burns [\d.]+x · ▲ 10% in 3d</div>', fires)
    assert '"card small' not in fires
    assert '<div class="note bad">▲ overspent by 20 %' in next(card for card in drawn if "first-token" in card)


def test_figures_from_few_requests_are_greyed(monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]) -> None:
    begin = seeded[1].started + timedelta(seconds=100)
    text = _text(
        _run(monkeypatch, seeded[0], "overview", between=controls.stretch(begin, begin + timedelta(seconds=40)))
    )
    assert 'card small"' in text
    assert text.count("too few to judge by") == 5
    assert re.search(r'class="card small"[^>]*><div class="label">good · n \d\d<', text)
    assert '"card few"' in text


def test_requests_that_hang_are_listed_oldest_first(seeded: tuple[str, Seeded]) -> None:
    shown = _read(seeded[0], "overview").dataframe[0].value
    assert shown["stage"].tolist() == ["tools", "decode"]
    assert shown["age_s"].iloc[0] > 47
    acme = _read(seeded[0], "overview", tenant="acme").dataframe[0].value
    assert acme["tenant"].tolist() == ["acme"]


def test_cells_that_are_selected_show_their_requests_and_hold_the_page(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    rows = [row for row in seeded[1].rows["requests"] if not row["synthetic"]]
    begin, end = (seeded[1].started.replace(microsecond=0) + timedelta(seconds=s) for s in (600, 700))
    until = seeded[1].ended.replace(microsecond=0)
    box = f"{controls.stretch(begin, end)}/2000/4000"
    app = _run(monkeypatch, seeded[0], "latency", picked=box, until=f"{until:%Y-%m-%dT%H:%M:%S}")
    inside = [row for row in rows if begin <= row["started"] < end and 2000 <= row["total_ms"] < 4000]
    assert f"**Who adds time** a request from {words.clock(begin)} to {words.clock(end)}, more than" in _text(app)
    suspect = violations.suspects(ApiReader(seeded[0]), Window(begin, end)).to_pylist()[0]
    assert f"n {suspect['n']} against {suspect['baseline_n']}" in _text(app)
    listed = app.dataframe[0].value
    assert len(listed) == len(inside) > 10
    assert listed["total_ms"].between(2000, 4000).all()
    assert listed["trace"].iloc[0].startswith("/trace?request=req-")
    assert app.session_state["until"] == until
    (heatmap, *_) = app.get("vega_lite_chart")
    outlined = json.loads(heatmap.proto.spec)["params"][0]["value"]
    assert outlined == {"t": [one.timestamp() * 1000 for one in (begin, end)], "lo_ms": [2000, 4000]}
    app.button(key="end-picked").click().run()
    assert "**Who took over 4 s" in _text(app)
    assert not {"picked", "until"} & app.query_params.keys()


@pytest.mark.parametrize(
    ("query", "is_live"),
    [
        ({}, True),
        ({"live": "false"}, False),
        ({"picked": "12"}, False),
        ({"until": "2026-03-01T12:00:00"}, False),
        ({"between": "2026-03-01T12:00:00/2026-03-01T12:05:00"}, False),
        ({"range": "24h"}, True),
    ],
)
def test_a_page_is_live_unless_something_holds_it(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded], query: dict[str, str], is_live: bool
) -> None:
    monkeypatch.setenv("TAILBUDGET_API", seeded[0])
    app = AppTest.from_function(_liveness, default_timeout=120)
    for name, value in query.items():
        app.query_params[name] = value
    assert app.run().text[0].value == f"live: {is_live}"


@pytest.mark.parametrize("picked", ["nonsense", "1/2", "2026-03-01T12:00:00/2026-03-01T11:00:00/1/2", "12"])
def test_an_address_that_picks_nothing_shows_what_is_shown_without(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded], picked: str
) -> None:
    app = _run(monkeypatch, seeded[0], "latency", picked=picked, until="noon")
    assert "**Who took over 4 s" in _text(app)
    assert _charts(app) == 4


def test_a_lower_end_in_the_address_lists_who_took_longer(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    app = _run(monkeypatch, seeded[0], "latency", over_ms="3000", range="1h")
    slower = [row for row in seeded[1].rows["requests"] if not row["synthetic"] and row["total_ms"] >= 3000]
    assert "**Who took over 3 s" in _text(app)
    assert len(app.dataframe[0].value) == min(len(slower), 100)
    assert app.dataframe[0].value["total_ms"].min() >= 3000
    ends = sorted(row["total_ms"] for row in slower)[:2]
    box = Box(seeded[1].started, seeded[1].ended, *ends)  # its lower end is in it, its upper one in the next
    assert latency.box_requests(ApiReader(seeded[0]), Window(box.from_ts, box.to_ts), box=box).num_rows == 1


def test_the_map_says_what_changed_against_the_week_before_and_leads_to_latency(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = seen([shop(trace, calls=2, call_ms=900) for trace in range(101, 141)], before=map(shop, range(1, 41)))
    with local_api(connection) as api:
        app = _run(monkeypatch, api, "service_map", between="2026-03-01T12:00:00/2026-03-01T12:05:00")
    hops = app.dataframe[0].value.set_index("callee")
    provider = hops.loc["provider:api.example"]
    assert provider["change"] == "slower, more calls"
    assert (provider["calls_per_request"], provider["p95_ms"], provider["p95_ms_before"]) == (2, 900, 500)
    assert provider["latency"] == "/latency?range=24h&only=hop+shop+%3E+api.example"
    nodes = app.dataframe[1].value.set_index("name")
    assert nodes.loc["shop"]["latency"] == "/latency?range=24h&only=service+shop"
    connection.close()


def test_the_map_says_of_how_many_traces_it_looked_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = seen(map(shop, range(1, 41)))
    connection.execute("create or replace view map_edges as from map_edges_of(100)")
    with local_api(connection) as api:
        app = _run(monkeypatch, api, "service_map")
    n = int(app.dataframe[0].value["n"].sum())
    assert f"n {n} · one trace in 4 looked at" in _text(app)
    assert set(app.dataframe[1].value["name"]) == {"shop", "billing", "qdrant", "find", "api.example"}
    connection.close()


@pytest.mark.parametrize(
    ("only", "condition"),
    [
        ("objective first-token", "ttft_ms is not null"),
        ("objective answers · acme", "tenant = 'acme' and outcome <> 'rejected'"),
        ("service demo", "service = 'demo'"),
        ("version 1.4.0", "version = '1.4.0'"),
        ("service nobody", "false"),
    ],
)
def test_a_link_narrows_every_picture_of_a_page_to_an_objective_or_a_service(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded], only: str, condition: str
) -> None:
    app = _run(monkeypatch, seeded[0], "latency", range="1h", only=only)
    sql = f"select count(*) as n, max(total_ms) as ms from requests where not synthetic and {condition}"
    wanted = answers.typed(sql).to_pylist()[0]
    if not wanted["n"]:
        assert f"No request of {only} in the last hour" in _text(app)
        return
    assert f"Total latency by time · n {wanted['n']:,}" in _text(app)
    assert app.selectbox(key="only").value == only
    app.number_input(key="over_ms").set_value(1).run()
    assert app.dataframe[0].value["total_ms"].max() == pytest.approx(wanted["ms"])
    for page in ("overview", "stages", "violations"):
        drawn = _run(monkeypatch, seeded[0], page, range="1h", only=only)
        assert _charts(drawn), page
        if page == "stages":
            assert [one["only"] for one in _links(drawn, "/latency")] == [only]
    app.selectbox(key="only").select(controls.EVERY).run()
    every = sum(not row["synthetic"] for row in seeded[1].rows["requests"])
    assert f"Total latency by time · n {every:,}" in _text(app)


def test_an_objective_that_is_not_known_narrows_nothing_and_is_said(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    app = _run(monkeypatch, seeded[0], "overview", range="1h", only="objective gone")
    every = sum(not row["synthetic"] for row in seeded[1].rows["requests"])
    assert f"p95 total · n {every:,}" in _text(app)
    assert next(iter(app.warning)).value == "Nothing is known of objective gone: the page shows all requests."


def test_a_hop_leads_to_the_latency_of_the_requests_that_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = seen([shop(trace, calls=trace % 2, call_ms=900) for trace in range(101, 141)])
    row = connection.sql("select min(started), max(started) + interval 1 second from requests").to_arrow_table()
    between = controls.stretch(*row.to_pylist()[0].values())
    with local_api(connection) as api:
        n = {}
        for only in ("hop shop > api.example", "service billing", "hop shop > elsewhere"):
            text = _text(_run(monkeypatch, api, "latency", between=between, only=only))
            n[only] = int((re.findall(r"Total latency by time · n (\d+)", text) or [0])[0])
    assert list(n.values()) == [20, 40, 0]
    connection.close()


def test_a_stretch_of_time_in_the_address_is_the_range(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    begin = seeded[1].started + timedelta(seconds=100)
    text = f"{begin:%Y-%m-%dT%H:%M:%S}/{begin + timedelta(seconds=120):%Y-%m-%dT%H:%M:%S}"
    from_ts = begin.replace(microsecond=0)
    n = sum(
        not row["synthetic"] and from_ts <= row["started"] < from_ts + timedelta(seconds=120)
        for row in seeded[1].rows["requests"]
    )
    app = _run(monkeypatch, seeded[0], "overview", between=text)
    assert f"p95 total · n {n:,}" in _text(app)
    assert {one.get("between") for one in _links(app, "/latency")} == {text}


def test_a_page_says_that_it_asks_until_its_answers_are_there(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    said: list[str] = []
    monkeypatch.setattr(st.delta_generator.DeltaGenerator, "caption", lambda _, text, **__: said.append(text))
    app = _run(monkeypatch, seeded[0], "coverage")
    assert said[0].startswith("Asking the collector ... A shorter range")
    said.clear()
    app.run()
    assert not any("Asking" in text for text in said)


def test_each_picture_shows_its_sql_ready_to_run(monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]) -> None:
    monkeypatch.setenv("TAILBUDGET_API", seeded[0])
    window = Window(seeded[1].started, seeded[1].ended, "/chat")
    for question in (overview.latency_summary, stages.stage_percentiles, violations.violations_by_stage):
        found = answers.answer(question, window)
        again = answers.typed(answers.asked(found))
        assert again.to_pylist() == found.to_pylist()
    bad = answers.table(tables.findings, drill.drill, window)
    assert answers.typed(answers.asked(bad)).num_rows >= bad.num_rows > 0


@pytest.mark.parametrize(
    ("page", "picture"), [("latency", "heatmap"), ("latency", "requests"), ("violations", "violations")]
)
def test_what_can_be_taken_away_is_what_the_picture_was_drawn_from(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded], page: str, picture: str
) -> None:
    taken: dict[str, bytes] = {}
    monkeypatch.setattr(st, "download_button", lambda label, data, *_, **__: taken.update({label: data}))
    monkeypatch.setenv("TAILBUDGET_API", seeded[0])
    app = AppTest.from_function(_script, args=(page,), default_timeout=120)
    app.query_params["range"] = "1h"
    app.session_state[f"tools-{picture}"] = True  # its menu is open
    app.run()
    again = answers.typed(next(code.value for code in app.code if code.language == "sql"))
    rows = csv.read_csv(io.BytesIO(taken["Download the rows"]))
    (told,) = {"n", "total_ms"} & {*again.column_names}
    assert rows.num_rows == again.num_rows > 10
    assert rows[told].to_pylist() == pytest.approx(again[told].to_pylist())


def _asks_twice(reader: ApiReader) -> pa.Table:
    reader.query("select 1 as first")
    return reader.query("select 2 as second")


def test_an_id_that_addresses_give_a_meaning_to_still_opens_its_trace() -> None:
    linked = tables.linked(pa.table({"request_id": ["a/b c&request=d"]}))
    assert linked["trace"].to_pylist() == ["/trace?request=a%2Fb%20c%26request%3Dd"]


def test_an_answer_of_several_questions_shows_them_all(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    monkeypatch.setenv("TAILBUDGET_API", seeded[0])
    shown = answers.asked(answers.answer(_asks_twice))
    assert shown.split("\n;\n\n") == ["select 1 as first", "select 2 as second"]


def test_a_diagnosis_says_what_it_saves_and_links_to_what_shows_it(seeded: tuple[str, Seeded]) -> None:
    text = _text(_read(seeded[0], "diagnoses", range="1h"))
    card = next(part for part in text.split('<div class="found ') if "no_pooling" in part)
    assert card.startswith("ticket")
    assert "Connections are not kept · service demo, peer billing.internal:443" in card
    assert "make one client for billing.internal:443" in card
    assert "<b>21 ms</b>" in card
    assert "setup 21 ms" in card
    assert re.search(r'href="/map\?range=1h&amp;between=\d{4}-\d\d-\d\dT', card)
    stamps = [found[:20] for found in re.findall(r'found <time datetime="([^"]+)', text)]
    assert len(stamps) >= 4
    assert stamps == sorted(stamps, reverse=True)


def test_a_diagnosis_of_a_request_opens_its_trace() -> None:
    found_at = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)
    row = {"rule": "cold_start", "found_at": found_at, "scope": '{"model": "m"}', "request_id": "req-1"}
    assert diagnosed.href(row).startswith("/trace?")
    assert "request=req-1" in diagnosed.href(row)
    whole = diagnosed.href({**row, "rule": "queue_deep", "request_id": None})
    assert whole == "/gpu?between=2026-03-01T12%3A00%3A00%2F2026-03-01T12%3A05%3A00&model=m"


def test_every_rule_has_words_and_a_page_that_shows_it() -> None:
    assert set(diagnosed.RULES) == set(diagnoses.rules())
    titles = {path: title for title, path, *_ in site.PAGES}
    assert {page for _, page in diagnosed.RULES.values()} <= set(diagnosed.PAGES)
    assert diagnosed.PAGES.items() <= titles.items()


def test_a_what_if_is_in_the_address_and_says_what_it_would_save(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    app = _run(monkeypatch, seeded[0], "stages", range="1h", what_if="decode", at_most_decode="500")
    changed = sum(not row["synthetic"] and row["decode_ms"] > 500 for row in seeded[1].rows["requests"])
    assert f"With decode at 500 ms or less, {changed:,} of n" in _text(app)
    assert "less than now" in _text(app)
    both = _text(_run(monkeypatch, seeded[0], "stages", what_if=["decode", "retrieval"], at_most_retrieval="100"))
    assert re.search(r"With decode at [\d.]+ m?s and retrieval at 100 ms or less", both)
    found = re.search(r"these stages would save \*\*([\d.]+) (ms|s)\*\* of p95 together", _text(app))
    assert found is not None
    assert float(found[1]) > 0
    of_kind = r"critical path of (\w+ )+\((around p50|from p95 on)\) · n (\d+)"
    n = {which: int(said) for _, which, said in re.findall(of_kind, _text(app))}
    assert n["around p50"] > 2 * n["from p95 on"] > 0  # a fifth of them, and a twentieth


def test_a_what_if_of_few_requests_is_greyed(monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]) -> None:
    begin = seeded[1].started + timedelta(seconds=100)
    between = controls.stretch(begin, begin + timedelta(seconds=40))
    text = _text(_run(monkeypatch, seeded[0], "stages", between=between, what_if="decode", at_most_decode="500"))
    assert text.count('"card small"') == 3
    assert re.search(r"of n \d\d requests, too few to judge by would", text)


def test_a_wish_beyond_what_the_stage_takes_now_is_kept(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    linked = _run(monkeypatch, seeded[0], "stages", what_if="decode", at_most_decode="50000")
    assert "With decode at 50 s or less, 0 of n" in _text(linked)
    held = AppTest.from_function(_script, args=("stages",), default_timeout=120)
    held.query_params["what_if"] = "decode"
    held.session_state["at_most_decode"] = 55_000  # as the slider keeps it from when the stage was slower
    held.run()
    assert not held.exception
    assert "With decode at 55 s or less, 0 of n" in _text(held)


def test_the_two_wrong_corners_of_queue_and_utilisation_are_counted(seeded: tuple[str, Seeded]) -> None:
    text = _text(_read(seeded[0], "gpu", range="1h"))
    assert int(re.search(r"(\d+) in the two named corners", text)[1]) > 0  # type: ignore[index]
    assert {"preemptions in each bucket", "joules a generated token", "GPU clock, mean MHz", "GPU power, W"} <= set(
        re.findall(r"^\*\*(.+?)\*\*", text, re.MULTILINE)
    )


def test_a_point_of_the_quadrant_lists_who_was_in_that_step(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    monkeypatch.setenv("TAILBUDGET_API", seeded[0])
    window = Window(seeded[1].started, seeded[1].ended)
    points = gpu.queue_quadrant(ApiReader(seeded[0]), window, bucket_s=60).to_pylist()
    deepest = max(points, key=lambda row: row["wait_ms"])
    timed = max(points, key=lambda row: row["n"])
    sql = f"select quantile_cont(queue_ms, 0.95) as ms from calls where started >= '{timed['t']}' and started < "
    assert timed["wait_ms"] == pytest.approx(answers.typed(f"{sql} '{timed['t2']}'")["ms"][0].as_py())
    steps = [gpu.step_requests(ApiReader(seeded[0]), controls.bucket(row), instance=INSTANCE) for row in points]
    chosen, step = next((row, one) for row, one in zip(points, steps, strict=True) if one.num_rows and row != deepest)
    app = _run(monkeypatch, seeded[0], "gpu", range="1h", picked=str(chosen["id"]))
    listed = app.dataframe[0].value
    assert listed["phase"].tolist() == step["phase"].to_pylist()
    assert listed["trace"].tolist() == [f"/trace?request={one}" for one in step["request_id"].to_pylist()]
    assert words.step(chosen, step)[0] in _text(app)
    app.selectbox(key=f"mark {chosen['id']}").set_value(deepest["id"]).run()  # as by keyboard
    assert app.query_params["picked"] == str(deepest["id"])
    assert app.query_params["until"] == f"{app.session_state['until']:%Y-%m-%dT%H:%M:%S}"
    step = steps[points.index(deepest)]
    assert words.step(deepest, step)[0] in _text(app)
    assert words.step(deepest, step)[0] in _text(_run(monkeypatch, seeded[0], "gpu", range="1h"))


def test_coverage_names_what_is_missing_with_its_line_and_what_was_not_stored(seeded: tuple[str, Seeded]) -> None:
    missing, arrived, unstored = (frame.value for frame in _read(seeded[0], "coverage").dataframe)
    assert "count of requests" in ", ".join(missing["what"])
    assert "tailbudget." in missing["add"].iloc[0]
    assert arrived["spans"].tolist() == [4210]
    assert unstored["reason"].tolist() == ["bad_id"]


def test_coverage_is_of_the_chosen_range(seeded: tuple[str, Seeded]) -> None:
    counts = [
        int(re.findall(r"n ([\d,]+) calls", _text(_read(seeded[0], "coverage", range=chosen)))[0])
        for chosen in ("5m", "1h")
    ]
    assert 0 < counts[0] < counts[1] == len(seeded[1].rows["requests"])


def test_coverage_says_what_was_not_stored_where_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = empty(tmp_path)
    furnish(connection, seed(connection, ended=datetime.now(UTC), minutes=5))
    for table in ("spans_open", "resources", "requests", "calls"):
        connection.execute(f"delete from {table}")
    with local_api(connection) as api:
        app = _run(monkeypatch, api, "coverage")
    connection.close()
    assert "No request yet" in _text(app)
    assert app.dataframe[-1].value["reason"].tolist() == ["bad_id"]


def test_sql_answers_what_is_typed_and_refuses_to_write(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    app = _run(monkeypatch, seeded[0], "sql", sql="select count(*) as n from violations")
    assert app.dataframe[0].value["n"].tolist() == [len(seeded[1].rows["violations"])]
    assert "total_ms" in app.dataframe[1].value["column"].tolist()
    with pytest.raises(QueryError, match="more than 10000 rows"):
        answers.typed("from range(20000)")
    app = _run(monkeypatch, seeded[0], "sql", sql="delete from violations")
    assert len(app.error) == 1


def test_the_picture_and_the_table_beside_the_editor_are_in_the_address(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    sql = "select route, ttft_ms, total_ms from requests"
    app = _run(monkeypatch, seeded[0], "sql", sql=sql, across="ttft_ms", up="total_ms", table="calls")
    assert "**total_ms** by ttft_ms" in _text(app)
    assert "response_id" in app.dataframe[1].value["column"].tolist()


def test_an_answer_is_drawn_by_the_kind_of_what_goes_across(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    kinds = {"route": "bar", "total_ms": "point", "started": "line"}
    for across, mark in kinds.items():
        app = _run(
            monkeypatch, seeded[0], "sql", sql=f"select {across}, ttft_ms from requests where ttft_ms is not null"
        )
        (chart,) = app.get("vega_lite_chart")
        drawn = json.loads(chart.proto.spec)
        assert drawn.get("layer", [drawn])[0]["mark"]["type"] == mark
    assert not _charts(_run(monkeypatch, seeded[0], "sql", sql="select count(*) as n from requests"))


def test_a_question_is_saved_chosen_and_deleted(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    app = _run(monkeypatch, seeded[0], "sql", sql="select 7 as seven")
    app.session_state["saved-name"] = " lucky "
    app.button[0].click().run()
    assert json.loads((tmp_path / "tailbudget" / "saved-queries.json").read_text()) == {"lucky": "select 7 as seven"}
    app = _run(monkeypatch, seeded[0], "sql")
    app.selectbox(key="saved").select("lucky").run()
    assert app.dataframe[0].value["seven"].tolist() == [7]
    assert app.query_params["sql"] == "select 7 as seven"
    app.button[1].click().run()
    assert not app.exception
    assert "lucky" not in app.selectbox(key="saved").options
    app.button[0].click().run()  # without a name
    assert "expected a name of 1 to 80 characters" in app.error[0].value


def test_every_question_that_comes_with_the_page_is_answered(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("TAILBUDGET_API", seeded[0])
    assert len(saved.questions()) >= 6
    for name, sql in saved.questions().items():
        assert answers.typed(sql).num_rows, name


def test_a_comparison_says_what_got_worse_with_both_n(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    app = _read(seeded[0], "compare")
    assert [box.value for box in app.selectbox][-3:] == ["version", "1.3.9", "1.4.0"]
    assert "From 1\\.3\\.9 to 1\\.4\\.0" in _text(app)
    assert all(f"only=version+{version}" in _text(app) for version in ("1.3.9", "1.4.0"))
    drawn: dict[str, pa.Table] = {}
    monkeypatch.setattr(charts, "tools", lambda frame, *_, name, **__: drawn.update({name: frame}))
    _run(monkeypatch, seeded[0], "compare", range="1h")
    sql = "select median(total_ms) as ms from requests where not synthetic group by version order by version"
    was, became = (words.duration(ms) for ms in answers.typed(sql)["ms"].to_pylist())
    assert any(label.startswith(f"total p50: {was} → {became} ·") for label in drawn["comparison"]["label"].to_pylist())
    _run(monkeypatch, seeded[0], "compare", range="1h", only="objective answers · acme")
    acme = sql.replace("median(total_ms) as ms", "count(*) as n").replace("synthetic", "synthetic and tenant = 'acme'")
    counts = answers.typed(acme.replace(" group", " and outcome <> 'rejected' group"))["n"].to_pylist()
    assert any(
        label.startswith("total p50") and label.endswith(f"n {counts[0]}, {counts[1]}")
        for label in drawn["comparison"]["label"].to_pylist()
    )


def test_a_comparison_of_one_value_says_what_to_do(monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]) -> None:
    text = _text(_run(monkeypatch, seeded[0], "compare", by="region"))
    assert "have 0 regions, two are needed" in text


def test_a_range_is_compared_with_the_time_before(monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]) -> None:
    begin = seeded[1].started + timedelta(seconds=300)
    between = controls.stretch(begin, begin + timedelta(seconds=180))
    app = _run(monkeypatch, seeded[0], "compare", by="time", between=between)
    assert "From the time before" in _text(app)
    links = re.findall(r'href="/latency\?[^"]*between=([^"&]+)', _text(app))
    assert [unquote(link) for link in links] == [controls.stretch(begin - timedelta(seconds=180), begin), between]
    assert _charts(app) == 1
    app = _run(monkeypatch, seeded[0], "compare", by="time", range="7d", earlier="a day before")
    assert "A day before, the range overlaps itself: choose a shorter range" in _text(app)


def test_a_change_is_worse_better_or_not_clear() -> None:
    changes = [
        Change("total_ms_p95", 300, 300, Difference(100.0, 130.0, 0.3, 0.2, 0.4)),
        Change("total_ms_p50", 300, 300, Difference(100.0, 80.0, -0.2, -0.3, -0.1)),
        Change("cache_hit_rate", 300, 300, Difference(0.2, 0.5, 0.3, 0.2, 0.4)),
        Change("ttft_ms_p50", 300, 300, Difference(100.0, 103.0, 0.03, 0.02, 0.04)),
        Change("ttft_ms_p95", 300, 300, Difference(100.0, 150.0, 0.5, -0.1, 1.1)),
        Change("ttft_ms_p99", 300, 300, None),
        Change("drop_rate", 300, 300, Difference(0.005, 0.04, 0.035, 0.01, 0.06)),
    ]
    shown = comparisons.rows(changes)
    assert shown["state"].to_pylist() == ["worse", "better", "better", "no clear change", "no clear change", "worse"]
    assert shown["label"][5].as_py() == "drop rate: 0.5% → 4.0% · +3.5 points · worse · n 300, 300"
    assert shown["label"][0].as_py() == "total p95: 100 ms → 130 ms · +30.0% · worse · n 300, 300"


def test_a_plan_follows_the_limits_and_prices_in_the_address(
    monkeypatch: pytest.MonkeyPatch, seeded: tuple[str, Seeded]
) -> None:
    wide, tight = (
        _text(_run(monkeypatch, seeded[0], "capacity", step="200.0", stream="5.0", usd="2.0", ttft_ms=limit))
        for limit in ("60000", "2000")
    )
    replicas = [int(re.findall(r"replicas</div><div class=\"value\">(\d+)<", text)[0]) for text in (wide, tight)]
    assert replicas[0] < replicas[1]
    assert f">${replicas[1] * 24 * 2:,}<" in tight
    assert "no number of replicas keeps the limits" in _text(_run(monkeypatch, seeded[0], "capacity", ttft_ms="1"))
