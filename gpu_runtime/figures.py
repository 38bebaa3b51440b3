"""Prometheus figures of the engine as it is now, under vLLM's names with our prefix, and the text with vLLM's own."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from .engine import Engine
from .reports import STEP_TOKENS
from .vitals import COUNTERS, GAUGES, RATE_S, Vitals

#: A row of a metric: what its labels say beside the model's name, and its value.
Rows = Sequence[tuple[dict[str, str], float]]


def as_vllm(text: bytes) -> bytes:
    """Return an exposition with vLLM's prefix, and with the label by which its dashboards tell engines apart."""
    return text.replace(b"tailbudget:", b"vllm:").replace(b'model_name="', b'engine="0",model_name="')


class LiveFigures(Collector):
    """Gauges, counters and one histogram that are read from the engine whenever Prometheus asks."""

    def __init__(
        self, engine: Engine, vitals: Vitals, *, model: str, cold_start_s: float, prefix_cache: bool, dtype: str
    ) -> None:
        self._engine = engine
        self._vitals = vitals
        self._model = model
        self._cold_start_s = cold_start_s
        pages = engine.pages
        self._cache = {
            "block_size": str(pages.size),
            "num_gpu_blocks": str(pages.count),  # what vLLM calls them on any device
            "enable_prefix_caching": str(prefix_cache),
            "cache_dtype": dtype,
        }

    def collect(self) -> Iterator[Metric]:
        """Return every metric with its samples."""
        for name, text, rows in self._gauges():
            yield self._filled(GaugeMetricFamily, name, text, rows)
        for name, text, rows in self._counters():
            yield self._filled(CounterMetricFamily, name, text, rows)
        yield self._step_sizes()

    def _filled(
        self, family: type[GaugeMetricFamily] | type[CounterMetricFamily], name: str, text: str, rows: Rows
    ) -> Metric:
        names = list(rows[0][0]) if rows else []
        made = family(f"tailbudget:{name}", text, labels=["model_name", *names])
        for labels, value in rows:
            made.add_metric([self._model, *labels.values()], value)
        return made

    def _gauges(self) -> Iterator[tuple[str, str, Rows]]:
        engine = self._engine
        for name, (text, attribute, _) in GAUGES.items():
            yield name, text, [({}, getattr(engine, attribute))]
        yield "cold_start_seconds", "Loading and warm-up at start.", [({}, self._cold_start_s)]
        waiting = [({"reason": "capacity"}, float(engine.waiting)), ({"reason": "deferred"}, 0.0)]
        yield "num_requests_waiting_by_reason", "Requests that wait for their turn, by why.", waiting
        states = {"awake": 1.0, "weights_offloaded": 0.0, "discard_all": 0.0}
        rows: Rows = [({"sleep_state": state}, value) for state, value in states.items()]
        yield "engine_sleep_state", "This engine never sleeps.", rows
        yield "cache_config_info", "The KV cache: pages (blocks) and tokens in each.", [(self._cache, 1.0)]
        place = {"instance": self._vitals.instance, "gpu": self._vitals.gpu or ""}
        for kind, per_s in self._vitals.per_gpu().items():
            text = f"The GPU's {kind} tokens a second, over the last {RATE_S} s."
            yield f"gpu_{kind}_tokens_per_second", text, [(place, per_s)]

    def _counters(self) -> Iterator[tuple[str, str, Rows]]:
        counts = self._engine.counts
        for name, (text, field, _) in COUNTERS.items():
            yield name, text, [({}, getattr(counts, field))]
        whole, cached = counts.prefix_queries, counts.prefix_hits
        yield "prompt_tokens", "Prompt tokens of admitted requests, cached ones included.", [({}, whole)]
        yield "prompt_tokens_cached", "Prompt tokens that were found in the prefix cache.", [({}, cached)]
        sources = {"local_compute": whole - cached, "local_cache_hit": cached}
        rows: Rows = [({"source": source}, tokens) for source, tokens in sources.items()]
        yield "prompt_tokens_by_source", "Prompt tokens by where their keys and values came from.", rows
        yield "spec_decode_num_drafts", "Steps that checked guesses of a request.", [({}, counts.checks)]
        rows = [({"position": str(place)}, right) for place, right in sorted(counts.accepted_at.items())]
        yield "spec_decode_num_accepted_tokens_per_pos", "Right guesses by their place.", rows
        rows = [({"reason": reason}, times) for reason, times in self._engine.refused.items()]
        yield "admission_rejections", "Requests that found no place, or none before their deadline.", rows

    def _step_sizes(self) -> Metric:
        counts = self._engine.counts
        made = HistogramMetricFamily("tailbudget:iteration_tokens_total", "Tokens a step.", labels=["model_name"])
        limits = [*map(float, STEP_TOKENS), float("inf")]
        texts = ["+Inf" if limit == float("inf") else str(limit) for limit in limits]
        buckets = list(zip(texts, accumulate(counts.sizes), strict=True))
        made.add_metric([self._model], buckets=buckets, sum_value=counts.step_tokens)
        return made
