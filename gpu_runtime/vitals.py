"""The engine's state as it is now: one point of each kind a second for the table `engine`."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

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
    "prompt_tokens_computed": (
        "Prompt tokens computed, again after a preemption too.",
        "prompt_tokens",
        "slo.engine.prompt_tokens",
    ),
    "generation_tokens": ("Tokens generated.", "generation_tokens", "slo.engine.generation_tokens"),
    "spec_decode_num_draft_tokens": ("Tokens drafted by speculation.", "drafts", "slo.engine.drafts"),
    "spec_decode_num_accepted_tokens": ("Drafted tokens that were right.", "accepted", "slo.engine.accepted"),
}


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
