"""The engine's state as it is now: one point of each kind a second for the table `engine`, and Prometheus figures."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .engine import Engine
from .points import Point

#: Gauge of vLLM's -> its help, the engine's property, and the metric that lands in the table.
GAUGES = {
    "num_requests_running": ("Requests that are computed together.", "running", "slo.engine.running"),
    "num_requests_waiting": ("Requests that wait for their turn.", "waiting", "slo.engine.waiting"),
    "kv_cache_usage_perc": (
        "Share of the KV cache that requests hold, 0 to 1.",
        "kv_used",
        "slo.engine.kv_used",
    ),
}
#: What a GPU computes a second is told over so many seconds: shorter ones jump with every prompt.
RATE_S = 10
UNITS = {"running": "{request}", "waiting": "{request}", "kv_used": "1"}
#: Counter of vLLM's -> its help, the field of Counts, and the metric that lands in the table.
COUNTERS = {
    "num_preemptions": ("Requests that gave their pages up.", "preemptions", "slo.engine.preemptions"),
    "prefix_cache_queries": ("Prompt tokens looked up.", "prefix_queries", "slo.engine.prefix_queries"),
    "prefix_cache_hits": ("Prompt tokens found.", "prefix_hits", "slo.engine.prefix_hits"),
    "engine_steps": ("Steps computed.", "steps", "slo.engine.steps"),
    "prompt_tokens": ("Prompt tokens computed.", "prompt_tokens", "slo.engine.prompt_tokens"),
    "generation_tokens": ("Tokens generated.", "generation_tokens", "slo.engine.generation_tokens"),
    "spec_decode_num_draft_tokens": ("Tokens drafted by speculation.", "drafts", "slo.engine.drafts"),
    "spec_decode_num_accepted_tokens": ("Drafted tokens that were right.", "accepted", "slo.engine.accepted"),
}


class LiveFigures(Collector):
    """Gauges and counters that are read from the engine whenever Prometheus asks."""

    def __init__(self, engine: Engine, vitals: "Vitals", *, model: str, cold_start_s: float) -> None:
        self._engine = engine
        self._vitals = vitals
        self._model = model
        self._cold_start_s = cold_start_s

    def collect(self) -> Iterator[Metric]:
        """Return one sample of each."""
        for name, (text, attribute, _) in GAUGES.items():
            gauge = GaugeMetricFamily(f"tailbudget:{name}", text, labels=["model_name"])
            gauge.add_metric([self._model], getattr(self._engine, attribute))
            yield gauge
        cold = GaugeMetricFamily(
            "tailbudget:cold_start_seconds", "Loading and warm-up at start.", labels=["model_name"]
        )
        cold.add_metric([self._model], self._cold_start_s)
        yield cold
        for name, (text, field, _) in COUNTERS.items():
            counter = CounterMetricFamily(f"tailbudget:{name}", text, labels=["model_name"])
            counter.add_metric([self._model], getattr(self._engine.counts, field))
            yield counter
        for kind, per_s in self._vitals.per_gpu().items():
            text = f"The GPU's {kind} tokens a second, over the last {RATE_S} s."
            rate = GaugeMetricFamily(
                f"tailbudget:gpu_{kind}_tokens_per_second", text, labels=["model_name", "instance", "gpu"]
            )
            rate.add_metric([self._model, self._vitals.instance, self._vitals.gpu or ""], per_s)
            yield rate


class Vitals:
    """The engine's points, counters as what came since the call before; `gpu` is the UUID of its GPU, if it has one."""

    def __init__(self, engine: Engine, *, model: str, address: str, gpu: str | None = None) -> None:
        self.instance, self.gpu = address, gpu
        self._engine = engine
        self._labels = (("instance", address), ("model", model), *([("hw.id", gpu)] if gpu else []))
        self._last = replace(engine.counts)
        self._last_ns = time.time_ns()
        #: The last seconds: (monotonic seconds, tokens computed of prompts, tokens generated).
        self._seconds = deque([self._now()], maxlen=RATE_S + 1)

    def _now(self) -> tuple[float, int, int]:
        return time.monotonic(), self._engine.counts.prompt_tokens, self._engine.counts.generation_tokens

    def per_gpu(self) -> dict[str, float]:
        """Return the tokens a second that the engine's GPU computed of prompts and generated; nothing without a GPU."""
        if self.gpu is None:
            return {}
        (then_s, *before), (now_s, *after) = self._seconds[0], self._now()
        kinds = zip(("prompt", "generation"), before, after, strict=True)
        return {kind: (late - early) / max(now_s - then_s, 1e-3) for kind, early, late in kinds}

    def points(self) -> Iterable[Point]:
        """Return the points of now, all of one instant."""
        now_ns, counts = time.time_ns(), replace(self._engine.counts)
        self._seconds.append(self._now())
        last, since_ns, self._last, self._last_ns = self._last, self._last_ns, counts, now_ns
        for _, attribute, name in GAUGES.values():
            yield Point(name, UNITS[attribute], getattr(self._engine, attribute), now_ns, self._labels)
        for _, field, name in COUNTERS.values():
            came = getattr(counts, field) - getattr(last, field)
            yield Point(name, "{token}", came, now_ns, self._labels, since_ns=since_ns)
        steps = counts.steps - last.steps
        if steps:
            for name, unit, total in (
                ("slo.engine.batch_tokens", "{token}", counts.step_tokens - last.step_tokens),
                ("slo.engine.step_time", "s", (counts.step_ns - last.step_ns) / 1e9),
            ):
                yield Point(name, unit, total / steps, now_ns, self._labels)
