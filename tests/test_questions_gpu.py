"""A model call is shown with what its host's GPUs did meanwhile, and a GPU's energy sums up over calls and idle."""

from collections.abc import Iterable, Mapping

import duckdb
import pytest

from tailbudget.analytics.gpu import gpu_energy, gpu_requests
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window

from .spans import Row, Trace, assemble, database, later
from .test_assemble_requests import CALL, ENGINE

WINDOW = Window(later(0), later(60))
Samples = Mapping[str, Iterable[tuple[float, Mapping[str, float]]]]


def _call(
    trace: int, start_ms: float, end_ms: float, *, tokens: int, engine: Mapping[str, object] | None = None
) -> Trace:
    """A request with one call of box:8000; `engine`: attributes of the server's span, which lies 100 ms inside."""
    built = Trace(trace)
    root = built.add("GET /chat", start_ms - 10, end_ms + 10, kind="SERVER")
    attrs = {**CALL, "server.address": "box", "server.port": 8000, "gen_ai.usage.output_tokens": tokens}
    call = built.add("chat m", start_ms, end_ms, under=root, kind="CLIENT", attrs=attrs)
    if engine is not None:
        attrs = {**ENGINE, **engine}
        built.add("llm_request", start_ms + 100, end_ms - 100, under=call, kind="SERVER", service="engine", attrs=attrs)
    return built


def _asked(traces: Iterable[Trace], samples: Samples, *, host: str | None = None) -> ConnectionReader:
    connection = database()
    attrs = f'{{"host.id": "{host}"}}' if host else "{}"
    connection.execute("insert into resources by name select 1 as resource_id, $1::json as attrs", [attrs])
    assemble(connection, [span for trace in traces for span in trace.spans])
    for where, values in samples.items():
        box, gpu = where.split()
        for at_s, value in values:
            _sample(connection, {"sampled_at": later(at_s), "host": box, "gpu": gpu, "up": True, **value})
    return ConnectionReader(connection)


def _sample(connection: duckdb.DuckDBPyConnection, row: Row) -> None:
    names = ", ".join(f"${name} as {name}" for name in row)
    connection.execute(f"insert into gpu by name select {names}", row)


def _joules(reader: ConnectionReader) -> dict[str, float]:
    rows = gpu_energy(reader, WINDOW).to_pylist()
    return {str(row["trace_id"])[-1] if row["trace_id"] else "idle": row["energy_j"] for row in rows}


def test_a_call_has_the_lowest_clock_all_throttle_bits_mean_use_and_peak_memory_of_its_time() -> None:
    clocks = [{"sm_mhz": mhz, "throttle": bits} for mhz, bits in ((300, 1), (1980, 4), (1200, 64), (1980, 0), (300, 8))]
    # The last starts after the end of the call; use and memory are read less often and hold in between.
    samples = [(float(second), each) for second, each in zip((0, 2, 3, 4, 6), clocks, strict=True)]
    used = [(1.9, {"util": 0.2, "mem_used_bytes": 50}), (3.5, {"util": 1.0, "mem_used_bytes": 70})]
    reader = _asked([_call(1, 2500, 5000, tokens=10)], {"box GPU-1": sorted([*samples, *used], key=lambda s: s[0])})
    (row,) = gpu_requests(reader, WINDOW).to_pylist()
    assert (row["host"], row["gpu"], row["n"]) == ("box", "GPU-1", 4)
    assert (row["sm_mhz_min"], row["throttle"], row["mem_peak_bytes"]) == (1200, 68, 70)
    assert row["util"] == pytest.approx((0.2 + 0.2 + 1.0 + 1.0) / 4)


def test_the_engine_says_on_which_host_it_runs_and_on_which_gpu() -> None:
    samples: Samples = {
        "far GPU-1": [(1.0, {"sm_mhz": 700})],
        "far GPU-2": [(1.0, {"sm_mhz": 1500})],
        "box GPU-3": [(1.0, {})],
    }
    anywhere = _asked([_call(1, 500, 2000, tokens=10, engine={})], samples, host="far")
    found = [(row["gpu"], row["sm_mhz_min"]) for row in gpu_requests(anywhere, WINDOW).to_pylist()]
    assert found == [("GPU-1", 700), ("GPU-2", 1500)]
    named = _asked([_call(1, 500, 2000, tokens=10, engine={"slo.gpu.id": "GPU-2"})], samples, host="far")
    assert [row["gpu"] for row in gpu_requests(named, WINDOW).to_pylist()] == ["GPU-2"]


def test_calls_of_other_hosts_are_not_there() -> None:
    reader = _asked([_call(1, 500, 2000, tokens=10)], {"other GPU-1": [(1.0, {"sm_mhz": 700})]})
    assert gpu_requests(reader, WINDOW).num_rows == 0


def _counter(*joules: float) -> Samples:
    """One value a second from second 0 on, at the second's end."""
    return {"box GPU-1": [(index + 0.9, {"energy_j": value}) for index, value in enumerate(joules)]}


def test_energy_beside_another_server_goes_by_output_tokens_and_sums_to_the_counter() -> None:
    # 10 J a second while idle, 110 J while calls run: the first alone, then both, three tokens to one.
    reader = _asked([_call(1, 1000, 3000, tokens=10), _call(2, 2000, 3000, tokens=15)], _counter(0, 110, 220, 230))
    found = _joules(reader)
    assert sum(found.values()) == pytest.approx(230)
    assert found["1"] == pytest.approx(110 + 110 * 5 / 20, rel=0.01)
    assert found["2"] == pytest.approx(110 * 15 / 20, rel=0.01)
    splits = {row["split"] for row in gpu_energy(reader, WINDOW).to_pylist()}
    assert splits == {"output tokens", "idle"}


def test_the_part_of_a_second_in_which_no_call_ran_is_idle() -> None:
    found = _joules(_asked([_call(1, 1250, 1500, tokens=10), _call(2, 3000, 3000, tokens=0)], _counter(0, 100, 200)))
    assert found == {"1": pytest.approx(25), "idle": pytest.approx(175)}


def test_energy_that_the_engine_told_is_taken_and_the_rest_is_idle() -> None:
    told = {"slo.gpu.id": "GPU-1", "slo.gpu.energy": 60.0}
    reader = _asked([_call(1, 1000, 3000, tokens=10, engine=told)], _counter(0, 110, 220, 230))
    assert _joules(reader) == {"1": 60.0, "idle": pytest.approx(170)}
    assert {row["split"] for row in gpu_energy(reader, WINDOW).to_pylist()} == {"steps", "idle"}


def test_a_gap_in_the_samples_is_spread_and_a_counter_that_starts_anew_is_not_negative() -> None:
    samples: Samples = {
        "box GPU-1": [(at_s, {"energy_j": value}) for at_s, value in ((0.9, 500), (4.9, 540), (5.9, 2), (6.9, 7))]
    }
    reader = _asked([_call(1, 2000, 3000, tokens=10)], samples)
    found = _joules(reader)
    assert found["1"] == pytest.approx(10, rel=0.02)
    assert sum(found.values()) == pytest.approx(45)


def test_a_gpu_without_an_energy_counter_has_no_rows() -> None:
    reader = _asked([_call(1, 1000, 3000, tokens=10)], {"box MIG-a": [(1.0, {"mem_used_bytes": 3}), (2.0, {})]})
    assert gpu_energy(reader, WINDOW).num_rows == 0
