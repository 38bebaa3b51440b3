"""Labelled stretches of traffic for the diagnoses: each rule's trouble, and the same traffic without it."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import duckdb
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from tailbudget.collector.assemble import Assembler
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.receive.decode import decode_metrics

from .collector_support import counter, gauge, metrics_body
from .spans import EPOCH_NS, Trace, database, land, later

S_NS = 1_000_000_000
CALL = {
    "gen_ai.operation.name": "chat", "gen_ai.request.model": "large", "gen_ai.provider.name": "p",
    "server.address": "engine", "server.port": 8000, "gen_ai.request.max_tokens": 256,
}  # fmt: skip
HTTP = {"http.request.method": "POST", "server.address": "engine"}
_traces = count(1)
Attrs = Mapping[str, object]
NONE: Attrs = {}


@dataclass
class Traffic:
    """What was sent: traces and metric points."""

    traces: list[Trace] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)

    def gauge(self, name: str, value: float, *, at_s: float, **attrs: object) -> None:
        """Add a point of a gauge; `_` in the name of an attribute is a dot."""
        named = {key.replace("_", "."): each for key, each in attrs.items()}
        self.metrics.append(gauge(name, value, named, t_ns=EPOCH_NS + round(at_s * S_NS)))

    def engine(self, at_s: float, **figures: float) -> None:
        """Add a sample of an engine."""
        for name, value in figures.items():
            self.gauge(f"slo.engine.{name}", value, at_s=at_s, instance="engine:8000", model="large")

    def gpu(self, at_s: float, util: float) -> None:
        """Add a sample of a GPU."""
        self.gauge("hw.gpu.utilization", util, at_s=at_s, host_id="h", hw_id="0")

    def count(self, name: str, value: float, *, at_s: float, attrs: Attrs) -> None:
        """Add what a counter grew by in the 5 s before."""
        at_ns = EPOCH_NS + round(at_s * S_NS)
        self.metrics.append(counter(name, value, attrs, start_ns=at_ns - 5 * S_NS, t_ns=at_ns))

    def ask(
        self, at_s: float, total_ms: float = 1000, *, attrs: Attrs = NONE, instance: int = 1, **call: Any
    ) -> tuple[Trace, int]:
        """Add a request to /chat; with keyword arguments it has a model call (see `call`). Return trace and root."""
        trace = Trace(next(_traces))
        named = {"slo.request": "/chat", **attrs}
        start_ms = at_s * 1e3
        root = trace.add("/chat", start_ms, start_ms + total_ms, kind="SERVER", attrs=named, resource_id=instance)
        self.traces.append(trace)
        if call:
            self.call(trace, root, at_s * 1e3, at_s * 1e3 + total_ms, **call)
        return trace, root

    def call(
        self, trace: Trace, root: int, start_ms: float, end_ms: float, *, queue_ms: float | None = None,
        ttft_ms: float | None = None, tokens: int = 100, prompt: int = 100, **attrs: object,
    ) -> int:  # fmt: skip
        """Add a model call; its engine answers when `queue_ms` is given. Return its span."""
        usage = {"gen_ai.usage.input_tokens": prompt, "gen_ai.usage.output_tokens": tokens}
        streamed = {} if ttft_ms is None else {"slo.time_to_first_token": ttft_ms / 1e3, "slo.stream.end": "complete"}
        said = {**CALL, **usage, **streamed, **{key.replace("__", "."): value for key, value in attrs.items()}}
        call = trace.add(
            "chat", start_ms, end_ms, under=root, kind="CLIENT", attrs={k: v for k, v in said.items() if v is not None}
        )
        if queue_ms is not None:
            took_s = (end_ms - start_ms) / 1e3
            rest_s = took_s - queue_ms / 1e3
            engine = {
                "gen_ai.latency.e2e": took_s, "gen_ai.latency.time_in_queue": queue_ms / 1e3,
                "gen_ai.latency.time_in_model_prefill": rest_s / 2, "gen_ai.latency.time_in_model_decode": rest_s / 2,
            }  # fmt: skip
            trace.add("llm_request", start_ms, end_ms, under=call, kind="SERVER", service="engine", attrs=engine)
        return call


def slow_for_five_minutes(sent: Traffic, *, wrong: bool, a_minute: int = 20) -> None:
    for minute in range(5):
        for n in range(a_minute):
            slow = n < 2 and (wrong or minute != 3)
            trace, root = sent.ask(minute * 60 + n * 2.5, 3000 if slow else 500)
            start = (minute * 60 + n * 2.5) * 1e3
            trace.add("docs", start, start + (2800 if slow else 300), under=root, attrs={"slo.stage": "retrieval"})


def long_tail(sent: Traffic, *, wrong: bool, n: int = 50) -> None:
    for at in range(n):
        sent.ask(at, 5000 if wrong else 2000, ttft_ms=200)


def missed_cache(sent: Traffic, *, wrong: bool, lookups: int = 100) -> None:
    hits = lookups * (20 if wrong else 40) // 100
    sent.count("slo.cache.hits", hits, at_s=60, attrs={"slo.guard": "answers"})
    sent.count("slo.cache.misses", lookups - hits, at_s=60, attrs={"slo.guard": "answers"})
    for at, is_hit in ((50, False), (55, True)):
        trace, root = sent.ask(at)
        took_ms = 10 if is_hit else 400
        trace.add(
            "docs", at * 1e3, at * 1e3 + took_ms, under=root, attrs={"slo.stage": "retrieval", "slo.cache.hit": is_hit}
        )


def opened_breaker(sent: Traffic, *, wrong: bool) -> None:
    trace, root = sent.ask(1)
    attrs = {"slo.stage": "tools", "error.type": "TimeoutError"}
    trace.add("search", 1000, 1900, under=root, attrs=attrs, status="ERROR")
    for at in range(5, 100, 5):
        state = 2 if at >= 20 and wrong else 0
        sent.gauge("slo.breaker.state", state, at_s=at, slo_guard="web search")


def deep_queue(sent: Traffic, *, wrong: bool) -> None:
    for at in range(60):
        sent.ask(at, ttft_ms=100)
        sent.engine(at, waiting=200 if wrong else 5)


def rising_queue(sent: Traffic, *, wrong: bool, a_minute: int = 3) -> None:
    for minute in range(25):
        for n in range(a_minute):
            waited_ms = 1000 + max(0, minute - 14) * 4000 * wrong
            sent.ask(minute * 60 + n, waited_ms + 1000, queue_ms=waited_ms)


def small_batch(sent: Traffic, *, wrong: bool) -> None:
    for at in range(0, 600, 5):
        best = at < 300
        speed = 5000 if best else 1500 if wrong else 4000
        sent.gpu(at, 0.9)
        sent.engine(at, waiting=0, running=200 if best else 8, generation_tokens=speed)


def idle_beside_work(sent: Traffic, *, wrong: bool) -> None:
    for at in range(0, 120, 2):
        sent.gpu(at, 0.05 if wrong else 0.9)
        sent.engine(at, waiting=8, kv_used=0.3)


def full_cache(sent: Traffic, *, wrong: bool) -> None:
    for at in range(60):
        sent.engine(at, waiting=3 if wrong else 0, kv_used=0.97, preemptions=1)


def long_prompt(sent: Traffic, *, wrong: bool) -> None:
    for at in range(40):
        sent.ask(at, ttft_ms=100)
    sent.ask(50, 4000, ttft_ms=3000, prompt=2000)
    for at in range(4):
        sent.ask(50.5 + at / 10, 3000, ttft_ms=2000 if wrong else 110)
    for at in range(5):
        sent.ask(60 + at, ttft_ms=100)


def noisy_neighbour(sent: Traffic, *, wrong: bool) -> None:
    for at in range(25):
        for tenant in ("large", "small"):
            sent.ask(at * 2, attrs={"slo.tenant": tenant}, queue_ms=20)
            late_ms = 300 if wrong and tenant == "small" else 20
            tokens = 900 if tenant == "large" else 100
            sent.ask(600 + at * 2, attrs={"slo.tenant": tenant}, queue_ms=late_ms, tokens=tokens)


def cold_after_idleness(sent: Traffic, *, wrong: bool) -> None:
    for minute in range(6):
        sent.ask(minute * 60, ttft_ms=100)
    sent.ask(1500, 2000, ttft_ms=1000 if wrong else 150)


def young_instance(*, slow_at_start: int, slow_later: int = 0) -> Traffic:
    """Return the requests of an instance that was there before, and of one that comes after twelve minutes."""
    sent = Traffic()
    budget = {"slo.budget.total": 1.0}
    for n in range(200):
        sent.ask(3 * n, 500, attrs=budget, instance=1)
    for n in range(60):
        sent.ask(720 + n, 3000 if n < slow_at_start else 500, attrs=budget, instance=2)
        sent.ask(800 + n, 3000 if n < slow_later else 500, attrs=budget, instance=2)
    return sent


def new_connections(sent: Traffic, *, wrong: bool, n: int = 30) -> None:
    for at in range(n):
        net: dict[str, Any] = {
            "slo__net__reused": not wrong,
            "slo__net__connect": 0.04 * wrong,
            "slo__net__tls": 0.08 * wrong,
        }
        sent.ask(at, ttft_ms=100, **net)


def far_away(sent: Traffic, *, wrong: bool) -> None:
    for at in range(10):
        sent.ask(at, ttft_ms=100, slo__net__connect=0.12 if wrong else 0.01)


def refused(sent: Traffic, *, wrong: bool, n: int = 30) -> None:
    for at in range(n):
        trace, root = sent.ask(at)
        call = sent.call(trace, root, at * 1e3, at * 1e3 + 900, slo__net__backoff=0.2)
        status = 429 if wrong and at == 3 else 200
        attrs = {**HTTP, "http.response.status_code": status}
        trace.add("POST", at * 1e3, at * 1e3 + 90, under=call, kind="CLIENT", attrs=attrs)


def tools_in_series(sent: Traffic, *, wrong: bool, n: int = 5) -> None:
    for at in range(n):
        trace, root = sent.ask(at)
        for tool in range(2):
            start = at * 1e3 + 300 * tool * wrong
            attrs = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": f"t{tool}"}
            trace.add(f"execute_tool t{tool}", start, start + 300, under=root, attrs=attrs)


def many_rounds(sent: Traffic, *, wrong: bool, n: int = 20) -> None:
    for at in range(n):
        trace, root = sent.ask(at)
        for tool in range(4 if wrong else 2):
            start = at * 1e3 + 200 * tool
            attrs = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t", "slo.tool.call_hash": f"{tool}"}
            trace.add("execute_tool t", start, start + 150, under=root, attrs=attrs)


def long_system_prompt(sent: Traffic, *, wrong: bool, n: int = 20) -> None:
    for at in range(n):
        share: dict[str, Any] = {"slo__prompt__tokens": 3000, "slo__prompt__share__system": 0.5 if wrong else 0.2}
        sent.ask(at, ttft_ms=500, prompt=3000, **share)


def without_limit(sent: Traffic, *, wrong: bool, n: int = 20) -> None:
    for at in range(n):
        sent.ask(at, ttft_ms=100, gen_ai__request__max_tokens=None if wrong else 256)


def large_router(sent: Traffic, *, wrong: bool, n: int = 20) -> None:
    for at in range(n):
        trace, root = sent.ask(at)
        model = "large" if wrong else "small"
        sent.call(trace, root, at * 1e3, at * 1e3 + 300, tokens=3, gen_ai__request__model=model)
        sent.call(trace, root, at * 1e3 + 300, at * 1e3 + 1000, tokens=200)


def held_back(sent: Traffic, *, wrong: bool, n: int = 20) -> None:
    for at in range(n):
        sent.ask(at, attrs={"slo.http.time_to_first_byte": 0.98 if wrong else 0.25}, ttft_ms=200)


def slow_reader(sent: Traffic, *, wrong: bool, n: int = 20) -> None:
    for at in range(n):
        sent.ask(at, ttft_ms=200, slo__stream__consumer_time=0.4 if wrong else 0.05)


def wild_tail(sent: Traffic, *, wrong: bool, n: int = 100) -> None:
    for at in range(n):
        sent.ask(at, (1000 if wrong else 300) if at % 10 == 0 else 100, attrs={"slo.budget.total": 5.0})


def lost_spans(sent: Traffic, *, wrong: bool) -> None:
    for at in range(0, 300, 5):
        sent.gauge("slo.requests.active", 5, at_s=at, route="/chat")
    for n in range(-5, 150):
        if not wrong or n % 2:
            sent.ask(n * 2, 10_000)


def gave_up(sent: Traffic, *, wrong: bool) -> None:
    for at in range(100):
        dropped = at < (8 if wrong else 3)
        sent.ask(at, attrs={"slo.outcome": "dropped"} if dropped else {})


#: Rule -> what is sent. With `wrong` it has the rule's trouble, and nothing else is different.
CASES: dict[str, Callable[..., None]] = {
    "agent_loop": many_rounds,
    "batching_misconfig": small_batch,
    "blocked_loop": slow_reader,
    "breaker_open": opened_breaker,
    "buffered_stream": held_back,
    "cache_hit_low": missed_cache,
    "cold_start": cold_after_idleness,
    "dropped": gave_up,
    "far_endpoint": far_away,
    "hol_blocking": long_prompt,
    "kv_pressure": full_cache,
    "littles_law": lost_spans,
    "looks_fast_ends_late": long_tail,
    "no_pooling": new_connections,
    "noisy_tenant": noisy_neighbour,
    "output_uncapped": without_limit,
    "oversized_model": large_router,
    "p95_over_2s": slow_for_five_minutes,
    "prompt_bloat": long_system_prompt,
    "queue_deep": deep_queue,
    "queue_precedes_timeout": rising_queue,
    "rate_limited": refused,
    "scheduler_bug": idle_beside_work,
    "tool_series": tools_in_series,
    "unpredictable": wild_tail,
}


def traffic(rule: str, *, wrong: bool, **more: Any) -> Traffic:
    """Return the traffic of one rule."""
    sent = Traffic()
    CASES[rule](sent, wrong=wrong, **more)
    return sent


def spans_of(sent: Traffic) -> Iterator[Any]:
    """Yield every span."""
    for trace in sent.traces:
        yield from trace.spans


def stored(sent: Traffic) -> duckdb.DuckDBPyConnection:
    """Land the traffic as the collector does, and assemble it."""
    connection = database()
    if sent.metrics:
        body = metrics_body(*sent.metrics)
        digest = hashlib.blake2b(body, digest_size=16).digest()
        Landing(connection).land([Body(digest=digest, batches=decode_metrics(body))], now=later(0))
    if sent.traces:
        land(connection, spans_of(sent))
        assert not Assembler(connection).tick(later(7200)).unfinished
    return connection
