"""Chart files and the questions behind them agree: every chart is drawn, its fields exist, stages keep their order."""

import ast
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest

from tailbudget.analytics import (
    coverage,
    diagnoses,
    gpu,
    latency,
    load_runs,
    overview,
    service_map,
    stages,
    token_rate,
    traces,
    violations,
)
from tailbudget.analytics.compare import Change
from tailbudget.analytics.drill import Finding
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.resample import Difference
from tailbudget.analytics.sag import SagSettings
from tailbudget.analytics.window import Box, Window
from tailbudget.app.incident import pictures
from tailbudget.app.pages.parts import charts, comparisons, diagnosed, plans, tables, wishes, words
from tailbudget.instrument.vocabulary import STAGES

from .spans import database
from .test_questions_latency import WINDOW

ROOT = Path(__file__).resolve().parents[1]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
BOX = Box(WINDOW.from_ts, WINDOW.to_ts, 1000.0, 5000.0)
NAMES = sorted(path.name.removesuffix(".vl.json") for path in charts.FOLDER.glob("*.vl.json"))


@cache
def _columns(window: Window) -> dict[str, set[str]]:
    reader = ConnectionReader(database())
    answers = {
        "heatmap": overview.latency_heatmap(reader, window, bucket_s=20),
        "stage_bullets": stages.stage_percentiles(reader, window),
        "blamed_stages": violations.violations_by_stage(reader, window),
        "savings": wishes._savings({"decode": 10.0}, budgets_ms={"decode": 500.0}),
        **dict.fromkeys(("quick_bars", "quick_points"), pa.table({"x": [1], "y": [1.0]})),
        "quick_time": pa.table({"t": [1], "y": [1.0], "clock": ["12:00"]}),
        "burn_down": violations.burn_down(reader),
        "violations_timeline": violations.violations_timeline(reader, window, bucket_s=20),
        "token_rate": token_rate.token_rate(reader, window, bucket_s=20, settings=SagSettings()),
        "gpu_clock": token_rate.gpu_clock(reader, window, bucket_s=20),
        "gpu_power": token_rate.gpu_clock(reader, window, bucket_s=20),
        "stream_trouble": token_rate.stream_trouble(reader, window, bucket_s=20),
        "latency_bands": latency.latency_bands(reader, window, bucket_s=20),
        "box_stages": latency.box_stages(reader, window, box=BOX),
        "findings": tables.findings([Finding("tenant", "acme", 9, 4, 0.4, 0.1, 3.0, 0.01, 0.02, found=True)]),
        "map_edges": service_map.edges(reader),
        "comparison": comparisons.rows([Change("ttft_ms_p95", 9, 9, Difference(10.0, 12.0, 0.2, 0.1, 0.3))]),
        "capacity_curve": plans.curves([]),
        "coverage": coverage.coverage(reader),
        "load_latency": load_runs.load_steps(reader, run_id="run-1"),
        "load_goodput": load_runs.load_steps(reader, run_id="run-1"),
        "load_stages": load_runs.load_stages(reader, run_id="run-1"),
        **dict.fromkeys(("engine_series", "engine_shares"), gpu.engine_series(reader, window, bucket_s=20)),
        "diagnoses": diagnosed.shown(diagnoses.findings(reader, window), window),
        "queue_quadrant": gpu.queue_quadrant(reader, window, bucket_s=20),
        "stage_shares": stages.stage_shares(reader, window, bucket_s=20),
        "stage_waterfall": stages.stage_waterfall(reader, window),
        "token_timeline": traces.token_gaps(reader, "req-1", trace_id=TRACE, started=window.from_ts),
        "network_phases": traces.network_phases(reader, trace_id=TRACE),
        "beside_route": traces.beside_route(reader, "req-1", trace_id=TRACE),
        "waterfall": traces.request_spans(reader, "req-1", trace_id=TRACE),
    }
    return {name: set(table.column_names) for name, table in answers.items()}


def _values(node: object, key: str) -> Iterator[object]:
    """Yield every value under `key`, at any depth."""
    if isinstance(node, dict):
        yield from ([node[key]] if key in node else [])
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _values(child, key)


@cache
def _draws() -> dict[str, list[set[str | None]]]:
    """Return the names of the arguments of each call that draws a chart, by chart."""
    found: dict[str, list[set[str | None]]] = {}
    for path in (ROOT / "app" / "pages").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(ast.Attribute(ast.Name("charts"), "draw"), [ast.Constant(str(name)), *_], named):
                    found.setdefault(name, []).append({one.arg for one in named})
    return found


def test_pages_have_no_sql_and_no_chart_of_their_own() -> None:
    for path in (ROOT / "app" / "pages").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert [text for text in texts if re.search(r"\bselect\b.+\bfrom\b", text, re.DOTALL)] == [], path.name
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert [name for name in names if name.endswith("_chart")] == [], path.name


def test_every_chart_is_drawn_by_a_page_and_every_drawn_chart_is_a_file() -> None:
    assert sorted(_draws()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_chart_says_what_one_row_is_and_takes_its_size_from_the_page(name: str) -> None:
    spec = charts.spec(name)
    assert "One row is" in spec["description"]
    assert {"data", "width", "datasets"}.isdisjoint(spec)


@pytest.mark.parametrize("name", NAMES)
def test_a_chart_uses_only_columns_that_its_question_returns(name: str) -> None:
    spec = charts.spec(name)
    made = {alias for value in _values(spec, "as") for alias in (value if isinstance(value, list) else [value])}
    used = {field for field in _values(spec, "field") if isinstance(field, str)}
    used |= set(re.findall(r"datum\.(\w+)", json.dumps(spec))) - {"value"}
    assert used - made - _columns(WINDOW)[name] == set()


@pytest.mark.parametrize("name", NAMES)
def test_times_are_the_viewers(name: str) -> None:
    assert not re.search(r'utc(Format|seconds)|"type": "utc"|time \(UTC\)', json.dumps(charts.spec(name)))


@pytest.mark.parametrize("name", NAMES)
def test_stages_have_one_order_and_one_colour_everywhere(name: str) -> None:
    colours = dict(zip(*_stage_scale("waterfall"), strict=True))
    for domain in [*_values(charts.spec(name), "domain"), *_values(charts.spec(name), "sort")]:
        if isinstance(domain, list) and "queue" in domain:
            assert domain[: len(STAGES)] == list(STAGES)
    if _stage_scale(name)[0]:
        assert colours.items() <= dict(zip(*_stage_scale(name), strict=True)).items()
    assert len(set(colours.values())) == len(STAGES)


def _stage_scale(name: str) -> tuple[list[str], list[str]]:
    for scale in _values(charts.spec(name), "scale"):
        if isinstance(scale, dict) and "queue" in scale.get("domain", []):
            return scale["domain"], scale["range"]
    return [], []


@pytest.mark.parametrize("name", NAMES)
def test_colours_stand_out_from_the_background(name: str) -> None:
    """A mark needs a contrast of 3 to 1 (WCAG 1.4.11); fills below are surfaces whose edge is drawn apart."""
    surfaces = {"#0f1117", "#1c2c47", "#1f4468", "#247a8a", "#2c3140"}
    colours = set(re.findall(r"#[0-9a-f]{6}", json.dumps(charts.spec(name)))) - surfaces
    assert [colour for colour in colours if _contrast(colour, "#0f1117") < 3] == []


@pytest.mark.parametrize("name", NAMES)
def test_words_stand_out_from_the_background_in_both_themes(name: str) -> None:
    """Text needs a contrast of 4.5 to 1 (WCAG 1.4.3)."""
    for light, background in ((False, "#0f1117"), (True, "#ffffff")):
        marks = [mark for mark in _values(charts.spec(name, light=light), "mark") if isinstance(mark, dict)]
        colours = {mark["color"] for mark in marks if mark["type"] == "text" and "color" in mark}
        assert [colour for colour in colours if _contrast(colour, background) < 4.5] == []


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.0, None]])
def test_a_series_of_zeros_has_an_axis(values: list[float | None]) -> None:
    zeros = pa.table({"value": values, "t": [1, 2]})
    assert list(_values(charts.grounded(charts.spec("engine_series"), zeros), "domain")) == [[0, 1]]
    some = pa.table({"value": [*values, 0.5], "t": [1, 2, 3]})
    assert charts.grounded(charts.spec("engine_series"), some) == charts.spec("engine_series")


@pytest.mark.parametrize("name", NAMES)
def test_zeros_leave_an_axis_alone_that_has_its_ends_or_other_values(name: str) -> None:
    drawn = charts.spec(name)
    ended = list(_values(drawn, "domain"))
    zeros = pa.table({field: [0.0] for field in {*_values(drawn, "field")} if isinstance(field, str)})
    found = list(_values(charts.grounded(charts.spec(name), zeros), "domain"))
    assert [one for one in found if one not in ended] in ([], [[0, 1]], [[0, 1]] * 2)
    ones = pa.table({field: [1.0] for field in zeros.column_names})
    assert charts.grounded(charts.spec(name), ones) == drawn


@pytest.mark.parametrize("name", NAMES)
def test_whatever_has_time_on_its_axis_can_be_dragged_over(name: str) -> None:
    spec = charts.spec(name)
    axes = [one.get("x", {}) for one in charts._encodings(spec)]
    if any((axis or {}).get("type") == "temporal" for axis in axes):
        assert [one.get("name") for one in spec["layer"]].count("brushed") == 1
        assert all("brush" in named for named in _draws()[name])


@pytest.mark.parametrize("name", NAMES)
def test_few_are_the_same_number_in_every_picture(name: str) -> None:
    assert set(re.findall(r"datum\.n < (\d+)", json.dumps(charts.spec(name)))) <= {str(words.SMALL_N)}


def _told(name: str, rows: list[dict[str, object]]) -> dict[str, str]:
    """Return what each mark and text of a chart says of itself, and with which attributes it is drawn."""
    pytest.importorskip("vl_convert")
    marks = re.findall(r'<\w+ aria-label="([^"]*)"([^>]*)>', pictures._svg(name, pa.Table.from_pylist(rows)))
    return dict(marks)


def _mark(told: dict[str, str], *said: str) -> str:
    (found,) = (drawn for label, drawn in told.items() if all(one in label for one in said))
    return found


def test_a_bullet_is_coral_over_its_budget_whose_tick_stands_at_the_budget_and_hollow_where_n_is_small() -> None:
    stages = (("retrieval", 150.0, 300.0, 100), ("prefill", 270.0, 300.0, 20), ("decode", 3000.0, 2000.0, 100))
    told = _told(
        "stage_bullets",
        [
            {"stage": stage, "n": n, "p50_ms": ms / 2, "p95_ms": ms, "p99_ms": 2 * ms, "budget_ms": budget_ms,
             "used": ms / budget_ms, "over_n": 3}
            for stage, ms, budget_ms, n in stages
        ],
    )  # fmt: skip
    assert 'fill="#5ad1b2" fill-opacity="1"' in _mark(told, "stage: retrieval", "state: within budget")
    assert 'fill="#5ad1b2" fill-opacity="0.3" stroke="#5ad1b2"' in _mark(told, "stage: prefill", "state: within")
    assert 'fill="#f2765d" fill-opacity="1"' in _mark(told, "stage: decode", "state: over budget", "p95 ms: 3,000.0")
    assert 'fill="#f2765d"' in _mark(told, "stage: decode; share: 150 % ▲")
    assert 'description="tick"' in _mark(told, "budget_ms: 2000; stage: decode")
    assert _mark(told, "stage: prefill; count: n 20, few")


def test_the_heatmap_has_one_line_at_the_budget_and_an_axis_with_units() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    rows: list[dict[str, object]] = [
        {"t": noon, "t2": noon + timedelta(minutes=1), "lo_ms": lo_ms, "hi_ms": 1.25 * lo_ms, "n": 3,
         "budget_ms": 2500.0, "clock": "12:00:00", "window_from": noon, "window_to": noon + timedelta(minutes=5)}
        for lo_ms in (400.0, 4000.0)
    ]  # fmt: skip
    told = _told("heatmap", rows)
    assert "stroke-dasharray" in told["total latency: 2500"]
    assert "total latency: 2500; label: budget 2.5 s" in told
    drawn = pictures._svg("heatmap", pa.Table.from_pylist(rows))
    assert {">500 ms<", ">1 s<", ">2 s<"} <= set(re.findall(r">\d+ m?s<", drawn))


def test_the_token_rate_and_its_band_share_a_scale_that_a_wide_band_does_not_stretch() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    rows: list[dict[str, object]] = [
        {"t": noon + timedelta(seconds=10 * at), "t2": noon + timedelta(seconds=10 * at + 10), "rate": rate,
         "expected_rate": 40.0, "low_rate": 30.0, "high_rate": high_rate, "slow": rate < 30, "tokens": 100,
         "active_stream_s": 2.0, "streams": 2, "alert_id": None, "slowdown": None, "clock": "12:00:00",
         "window_from": noon, "window_to": noon + timedelta(minutes=1)}
        for at, (rate, high_rate) in enumerate([(39.0, 45.0), (41.0, 900.0), (20.0, 50.0)])
    ]  # fmt: skip
    told = _told("token_rate", rows)
    assert 'stroke="#f58d78"' in _mark(told, "; rate: 20; t2")
    assert _mark(told, "low_rate: 30", "band_to: 45")
    assert _mark(told, "low_rate: 30", "band_to: 53.3")


def test_the_waterfall_of_stages_shows_the_room_of_each_budget_and_what_is_over_it() -> None:
    times = (("retrieval", 0.0, 150.0, 300.0), ("decode", 150.0, 3000.0, 2000.0))
    told = _told(
        "stage_waterfall",
        [
            {"stage": stage, "n": 100, "ms": ms, "from_ms": from_ms, "to_ms": from_ms + ms, "budget_ms": budget_ms,
             "room_to_ms": from_ms + budget_ms, "over_ms": max(ms - budget_ms, 0), "total_budget_ms": 4000.0}
            for stage, from_ms, ms, budget_ms in times
        ],
    )  # fmt: skip
    assert 'description="bar"' in _mark(told, "one stage after the other: 0; stage: retrieval; room_to_ms: 300")
    assert 'description="tick"' in told["room_to_ms: 2150; stage: decode"]
    assert "stroke-dasharray" in told["total_ms: 4000"]
    assert 'fill="#f58d78"' in told["stage: decode; label: 3,000 ms of 2,000 · ▲ 1,000 ms over"]


def _contrast(one: str, other: str) -> float:
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
