"""What a request cost is counted from the user's own prices, and null where anything is not known."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tailbudget.analytics.cost import cost as asked
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.collector.assemble import Assembler
from tailbudget.collector.assemble.prices import Price, read_prices
from tailbudget.instrument.errors import UserError

from .spans import Trace, database, land, later, one
from .test_assemble_requests import CALL, ENGINE

PRICES = """provider,model,input,output,cached
openai,m-mini*,0.5,2,
OpenAI,m*,2,8,1
,*,10,10,10
"""
TOKENS = {"gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 100}
OPENAI = {**CALL, **TOKENS, "gen_ai.provider.name": "openai"}


def prices(folder: Path, text: str = PRICES) -> tuple[Price, ...]:
    (folder / "prices.csv").write_text(text)
    return read_prices(folder / "prices.csv")


def cost(known: tuple[Price, ...], *calls: Mapping[str, object], **more: str) -> float | None:
    trace = Trace()
    root = trace.add("ask", 0, 1000, attrs={"slo.request": "ask"})
    for number, attrs in enumerate(calls):
        trace.add("chat m", number * 100, number * 100 + 90, under=root, attrs=attrs, **more)
    connection = database()
    land(connection, trace.spans)
    Assembler(connection, prices=known).tick(later(1))
    found: float | None = one(connection, "select cost_usd from requests")["cost_usd"]
    return found


@pytest.mark.parametrize(
    ("attrs", "dollars"),
    [
        ({}, 0.0028),
        ({"gen_ai.usage.cache_read.input_tokens": 400}, 0.0024),
        ({"gen_ai.response.model": "M-Mini-2026"}, 0.0007),
        ({"gen_ai.response.model": "M-Mini-2026", "gen_ai.usage.cache_read.input_tokens": 400}, 0.0007),
        ({"gen_ai.provider.name": "other"}, 0.011),
        ({"gen_ai.usage.output_tokens": None}, None),
    ],
)
def test_a_call_costs_what_the_first_price_that_matches_says(
    attrs: dict[str, object], dollars: float | None, tmp_path: Path
) -> None:
    attrs = {key: value for key, value in {**OPENAI, **attrs}.items() if value is not None}
    assert cost(prices(tmp_path), attrs) == (dollars and pytest.approx(dollars))


def test_a_request_costs_what_its_calls_cost_unless_one_is_not_known(tmp_path: Path) -> None:
    known = prices(tmp_path)
    assert cost(known, OPENAI, OPENAI) == pytest.approx(0.0056)
    assert cost(known, OPENAI, CALL) is None
    assert cost(prices(tmp_path, PRICES.replace(",*,10,10,10", "")), {**OPENAI, "gen_ai.request.model": "x"}) is None
    assert cost(known) is None


def test_a_call_that_failed_without_tokens_costs_nothing(tmp_path: Path) -> None:
    assert cost(prices(tmp_path), {**CALL, "error.type": "503"}, status="ERROR") == 0


def test_without_prices_no_request_has_a_cost() -> None:
    assert cost((), OPENAI) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,input\nm,1\n", "begins with 'model,input': expected 'provider,model,input,output,cached'"),
        (PRICES + "openai,x,cheap,1,1\n", "line 5: 'cheap' is no price"),
        (PRICES + "openai,x,nan,1,1\n", "line 5: 'nan' is no price"),
        (
            PRICES.replace("cached", "cached,gpu_hour"),
            r"expected 'provider,model,input,output,cached', and 'gpu_hour,kwh'",
        ),
        (PRICES + "openai,,1,1,1\n", "line 5: expected 5 values and a model"),
        (PRICES + "openai,x,1\n", "line 5: expected 5 values and a model"),
    ],
)
def test_a_file_that_is_no_price_list_is_refused_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        prices(tmp_path, text)


OWN = """provider,model,input,output,cached,gpu_hour,kwh
,m-timed,0,0,0,3.60,
,m-fed,0,0,0,,0.36
,m-all,1,2,,3.60,0.36
"""
TOLD = {**ENGINE, "slo.batch.size": 4, "slo.gpu.energy": 200.0}  # 0.65 s of prefill and decode


@pytest.mark.parametrize(
    ("model", "engine", "dollars"),
    [
        ("m-timed", TOLD, 0.65 / 4 * 0.001),
        ("m-fed", TOLD, 200 * 0.36 / 3.6e6),
        ("m-all", TOLD, 0.65 / 4 * 0.001 + 200 * 1e-7 + 0.0012),
        ("m-timed", ENGINE, None),  # vLLM does not say with how many it shared a step
        ("m-fed", ENGINE, None),
    ],
)
def test_a_model_of_ones_own_costs_its_engines_time_and_energy(
    model: str, engine: Mapping[str, object], dollars: float | None, tmp_path: Path
) -> None:
    trace = Trace()
    root = trace.add("ask", 0, 1000, attrs={"slo.request": "ask"})
    call = trace.add("chat m", 0, 900, under=root, kind="CLIENT", attrs={**OPENAI, "gen_ai.request.model": model})
    trace.add("llm_request", 20, 780, under=call, kind="SERVER", service="engine", attrs=engine)
    connection = database()
    land(connection, trace.spans)
    Assembler(connection, prices=prices(tmp_path, OWN)).tick(later(1))
    row = one(connection, "select requests.cost_usd, gpu_s, energy_j from requests join calls using (trace_id)")
    known = "slo.batch.size" in engine
    assert row["cost_usd"] == (dollars and pytest.approx(dollars))
    assert (row["gpu_s"], row["energy_j"]) == ((pytest.approx(0.1625), 200.0) if known else (None, None))
    (by_model,) = asked(ConnectionReader(connection), Window(later(0), later(60)), by="model").to_pylist()
    assert (by_model["value"], by_model["gpu_s"], by_model["energy_j"]) == (model, row["gpu_s"], row["energy_j"])
    assert by_model["cost_usd"] == row["cost_usd"]


def test_feedback_is_what_the_service_said_of_the_request() -> None:
    trace = Trace()
    trace.add("ask", 0, 1000, attrs={"slo.request": "ask", "slo.feedback": "good"})
    connection = database()
    land(connection, trace.spans)
    Assembler(connection).tick(later(1))
    assert one(connection, "select feedback from requests") == {"feedback": "good"}
