"""Engines' own metrics land in `engine` and `metrics`, whatever their names, counted once and from reset to reset."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tailbudget.app.cli import run
from tailbudget.collector.scrape import scraper
from tailbudget.collector.scrape.body import body
from tailbudget.collector.scrape.scraper import target
from tailbudget.collector.scrape.series import METRICS, Deltas, NoEngineError, read
from tailbudget.instrument.errors import UserError

from .collector_support import collector
from .runtime_support import receiver, server
from .support import free_port, wait_until

EXPOSITIONS = Path(__file__).parent / "expositions"
S = 1_000_000_000


def text(name: str) -> str:
    return (EXPOSITIONS / f"{name}.txt").read_text()


def points(found: bytes) -> dict[str, Any]:
    """Return the points of a body by metric: a number, or (count, sum, buckets); each metric stands there once."""
    (group,) = ExportMetricsServiceRequest.FromString(found).resource_metrics
    told: dict[str, Any] = {}
    for metric in group.scope_metrics[0].metrics:
        assert metric.name not in told
        if metric.WhichOneof("data") == "histogram":
            (point,) = metric.histogram.data_points
            told[metric.name] = (point.count, point.sum, list(point.bucket_counts))
        else:
            (number,) = (metric.gauge if metric.WhichOneof("data") == "gauge" else metric.sum).data_points
            told[metric.name] = number.as_double
    return told


def scraped(*texts: str) -> dict[str, Any]:
    """Return what the last of several scrapes, one a second, told."""
    deltas = Deltas()
    found = b""
    for number, each in enumerate(texts):
        found = body("e:1", read(each), deltas, last_ns=number * S or None, now_ns=(number + 1) * S)
    return points(found)


def test_the_old_names_of_vllm() -> None:
    assert scraped(text("vllm_old")) == {
        "slo.engine.up": 1.0, "slo.engine.running": 3.0, "slo.engine.waiting": 5.0, "slo.engine.kv_used": 0.25,
    }  # fmt: skip
    later = text("vllm_old").replace("} 400.0", "} 450.0").replace("} 5000.0", "} 5100.0").replace("} 100.0", "} 103.0")
    assert scraped(text("vllm_old"), later) == {
        "slo.engine.up": 1.0, "slo.engine.running": 3.0, "slo.engine.waiting": 5.0, "slo.engine.kv_used": 0.25,
        "slo.engine.prefix_queries": 0.0, "slo.engine.prefix_hits": 50.0, "slo.engine.prompt_tokens": 100.0,
        "slo.engine.generation_tokens": 0.0, "slo.engine.preemptions": 0.0,
        "gen_ai.server.time_per_output_token": (3, 0.0, [0, 0, 3]),
    }  # fmt: skip


def test_two_spellings_of_one_thing_and_two_engines_of_one_model_are_counted_once() -> None:
    first = scraped(text("vllm_new"))
    assert (first["slo.engine.running"], first["slo.engine.waiting"], first["slo.engine.kv_used"]) == (7, 6, 0.5)
    later = text("vllm_new").replace('"0",model_name="m-8b"} 900.0', '"0",model_name="m-8b"} 1000.0')
    later = later.replace("} 100.0", "} 110.0").replace("} 32.0", "} 42.0").replace("} 640.0", "} 740.0")
    told = scraped(text("vllm_new"), later)
    assert told["slo.engine.generation_tokens"] == 100 + 10
    assert told["gen_ai.server.time_per_output_token"] == (10, 0, [0, 0, 10])
    assert told["slo.engine.batch_tokens"] == 10  # 100 tokens in 10 steps
    assert told["slo.engine.prefix_hits"] == 0
    assert told["slo.engine.ended"] == 0


def test_sglang_and_its_shards() -> None:
    told = scraped(text("sglang"), text("sglang").replace("8.128902e+06", "8.129e+06"))
    assert told["slo.engine.running"] == 6  # each shard of tensor parallelism tells all of them
    assert (told["slo.engine.waiting"], told["slo.engine.kv_used"]) == (2, 0.28)
    assert (told["slo.engine.prefix_hit_rate"], told["slo.engine.throughput"]) == (0.5, 86.5)
    assert told["slo.engine.prompt_tokens"] == 98
    assert told["gen_ai.server.time_to_first_token"] == (0, 0, [0, 0, 0])


def test_a_counter_that_is_smaller_began_anew() -> None:
    restarted = text("vllm_old").replace("} 5000.0", "} 70.0").replace("} 100.0", "} 95.0").replace("} 4.0", "} 3.0")
    told = scraped(text("vllm_old"), restarted)
    assert told["slo.engine.prompt_tokens"] == 70
    assert told["gen_ai.server.time_per_output_token"] == (95, 3, [60, 30, 5])


def test_a_series_that_is_new_tells_nothing_of_its_past() -> None:
    second = text("vllm_old").replace('preemptions_total{model_name="m-8b"}', 'preemptions_total{model_name="new"}')
    deltas = Deltas()
    body("e:1", read(text("vllm_old")), deltas, last_ns=None, now_ns=S)
    found = body("e:1", read(second), deltas, last_ns=S, now_ns=2 * S)
    assert b"num_preemptions" not in found
    assert b"slo.engine.preemptions" not in found


def test_what_did_not_answer_is_down_and_begins_anew() -> None:
    deltas = Deltas()
    body("e:1", read(text("vllm_old")), deltas, last_ns=None, now_ns=S)
    assert points(body("e:1", None, deltas, last_ns=S, now_ns=2 * S)) == {"slo.engine.up": 0.0}
    again = points(body("e:1", read(text("vllm_old")), deltas, last_ns=None, now_ns=3 * S))
    assert "slo.engine.prompt_tokens" not in again


@pytest.mark.parametrize(
    "wrong", ["", "<html>", "a{", 'x{le="q"} 1', "python_gc_total 3\n", "vllm:num_requests_running x"]
)
def test_what_is_no_engines_is_said_to_be_none(wrong: str) -> None:
    with pytest.raises(NoEngineError):
        read(wrong)


def test_each_metric_and_each_name_stands_in_the_table_once() -> None:
    names = [name for metric in METRICS for name in metric.names]
    assert len(names) == len(set(names))
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert {metric.kind for metric in METRICS} == {"gauge", "counter", "histogram"}


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/metrics"),
        ("http://gpu:8000/", "http://gpu:8000/metrics"),
        ("https://gpu/prom/metrics", "https://gpu/prom/metrics"),
    ],
)
def test_an_address_without_a_path_is_asked_for_metrics(url: str, asked: str) -> None:
    assert target(url) == asked


@pytest.mark.parametrize(
    "url", ["gpu:8000", "file:///etc/passwd", "http://", "http://u:p@gpu", "http://a b", "http://a:x"]
)
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(UserError, match="expected an engine's address"):
        target(url)


class Engine(BaseHTTPRequestHandler):
    """Answers as `server.answer` says: a text, `huge` or `slow`."""

    server: Any

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            if self.server.answer == "huge":
                while True:
                    self.wfile.write(b"# HELP x y\n" * 10_000)
            if self.server.answer == "slow":
                while not self.server.ended.wait(0.2):
                    self.wfile.write(b"#\n")
            self.wfile.write(self.server.answer.encode())
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def engine(answer: str) -> Iterator[Any]:
    found: Any = ThreadingHTTPServer(("127.0.0.1", free_port()), Engine)
    found.answer, found.ended = answer, threading.Event()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        found.ended.set()
        found.shutdown()
        found.server_close()


@pytest.mark.parametrize("answer", ["huge", "slow"])
def test_an_answer_that_is_too_large_or_too_slow_is_given_up(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(scraper, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(scraper, "MAX_BYTES", 300_000)
    with engine(answer) as running, pytest.raises(OSError, match=r"bytes|within"):
        scraper._fetch(f"http://127.0.0.1:{running.server_port}/metrics")


def test_a_collector_stores_what_an_engine_tells_and_says_when_it_is_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with engine(text("vllm_new")) as vllm:
        here = f"127.0.0.1:{vllm.server_port}"
        settings = {"scrape": [f"http://{here}", f"http://{nobody}"], "scrape_every_s": 0.2}
        with collector(tmp_path / "data", **settings) as running:
            wait_until(lambda: running.value("select count(*) from engine where generation_tokens = 0") > 2)
            vllm.answer = text("vllm_new").replace("} 900.0", "} 925.0")
            wait_until(lambda: running.value("select coalesce(max(generation_tokens), 0) from engine") == 25)
            row = running.rows(f"from engine where generation_tokens = 25 and instance = '{here}'")[0]
            expected = {"model": "m-8b", "source": "vllm", "up": True, "running": 7, "waiting": 6, "kv_used": 0.5}
            assert {key: row[key] for key in expected} == expected
            assert running.value(f"select bool_or(up) from engine where instance = '{nobody}'") is False
            assert running.value("select sum(value) from metrics where name = 'slo.engine.generation_tokens'") == 25
            metrics = running.get("/metrics")[1].decode()
            assert f'tailbudget_scrape_up{{instance="{here}"}} 1.0' in metrics
            assert f'tailbudget_scrape_up{{instance="{nobody}"}} 0.0' in metrics
            assert "tailbudget_assembly_lag_seconds 0.0" in metrics
            assert "tailbudget_queue_bytes " in metrics
            assert run(["doctor", "--api", f"http://127.0.0.1:{running.api_port}"]) == 0
            assert f"engine     {nobody} did not answer its last scrape" in capsys.readouterr().out
            assert running.stop() == 0


def test_our_own_runtime_is_scraped(tmp_path: Path) -> None:
    with receiver() as otlp, server(otlp.endpoint, max_context=256) as (url, _):
        settings = {"scrape": [url], "scrape_every_s": 0.2}
        with collector(tmp_path / "data", **settings) as running:
            wait_until(lambda: running.value("select count(*) from engine where up") > 1, what="the first scrapes")
            asked = {"model": "tiny", "prompt": "The river", "max_tokens": 5, "temperature": 0}
            assert httpx.post(f"{url}/v1/completions", json=asked, timeout=120).status_code == 200
            # A scrape taken while it answered tells a part of it: one that began after the answer tells all.
            later = f"select count(*) from engine where up and epoch_ns(t) > {time.time_ns()}"
            wait_until(lambda: running.value(later) > 0, what="a scrape after the answer")
            assert running.value("select sum(generation_tokens) from engine") == 5
            assert running.value("select distinct source from engine") == "tailbudget"
            duration = "select sum(n)::bigint from metrics where name = 'gen_ai.server.request.duration'"
            assert running.value(duration) == 1
