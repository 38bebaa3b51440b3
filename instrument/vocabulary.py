"""The words that every part shares: stages, attribute and metric names, and the one table of unit conversions.

Attribute names follow the OpenTelemetry GenAI semantic conventions; what they lack has the prefix `slo.`. Durations
in attributes are seconds (the conventions' unit), nanoseconds inside spans, milliseconds in tables.
"""

from typing import Final, Literal, get_args

Stage = Literal["network", "queue", "retrieval", "prompt", "prefill", "decode", "tools", "post", "other"]

#: In the order in which every table, chart and report shows them. `other` is the time that no span explains.
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
#: `model` is a composite, allowed wherever a stage name is.
MODEL_STAGES: Final[tuple[Stage, ...]] = ("queue", "prefill", "decode")

# Of a request.
REQUEST: Final = "slo.request"
REQUEST_ID: Final = "slo.request.id"
TENANT: Final = "slo.tenant"
STAGE: Final = "slo.stage"
BUDGET_PREFIX: Final = "slo.budget."
DEADLINE: Final = "slo.deadline"
OUTCOME: Final = "slo.outcome"
SYNTHETIC: Final = "slo.synthetic"
TIME_TO_FIRST_TOKEN: Final = "slo.time_to_first_token"
TIME_TO_USABLE: Final = "slo.time_to_usable"
TIME_TO_FINAL: Final = "slo.time_to_final"
USABLE_SOURCE: Final = "slo.usable.source"

# Of a request over HTTP: when the service's first and last body byte went to its client, in seconds since it began.
TIME_TO_FIRST_BYTE: Final = "slo.http.time_to_first_byte"
TIME_TO_LAST_BYTE: Final = "slo.http.time_to_last_byte"

# Of a streamed call, client side.
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
STREAM_CHUNKS: Final = "slo.stream.chunks"
STREAM_END: Final = "slo.stream.end"
STREAM_MAX_GAP: Final = "slo.stream.max_gap"
STREAM_STALLS: Final = "slo.stream.stalls"
STREAM_STALL_TIME: Final = "slo.stream.stall_time"
STREAM_CONSUMER_TIME: Final = "slo.stream.consumer_time"
STREAM_GAPS: Final = "slo.stream.gaps"

ROLE: Final = "slo.role"
FALLBACK: Final = "slo.fallback"
HEDGED: Final = "slo.hedged"
ROUTE_MODEL: Final = "slo.route.model"
RATELIMIT_PREFIX: Final = "slo.ratelimit."

# Of the HTTP requests of a call: `slo.net.` and a phase, in seconds, then what the connection was.
NET_PREFIX: Final = "slo.net."
NET_REUSED: Final = "slo.net.reused"
NET_HTTP_VERSION: Final = "slo.net.http_version"
NET_TLS_RESUMED: Final = "slo.net.tls_resumed"
NET_ATTEMPTS: Final = "slo.net.attempts"
NET_BACKOFF: Final = "slo.net.backoff"

# Of a job: what it waited in its queue.
QUEUE_WAIT: Final = "slo.queue.wait"

# Of a retrieval, and of a call of a tool: a hash of its arguments.
RETRIEVAL_DOCUMENTS: Final = "slo.retrieval.documents"
TOOL_CALL_HASH: Final = "slo.tool.call_hash"

# Of an engine's span (vLLM's vocabulary).
ENGINE_SPAN: Final = "llm_request"
TIME_IN_QUEUE: Final = "gen_ai.latency.time_in_queue"
TIME_IN_PREFILL: Final = "gen_ai.latency.time_in_model_prefill"
TIME_IN_DECODE: Final = "gen_ai.latency.time_in_model_decode"
TIME_IN_INFERENCE: Final = "gen_ai.latency.time_in_model_inference"
ENGINE_TIME_TO_FIRST_TOKEN: Final = "gen_ai.latency.time_to_first_token"
E2E: Final = "gen_ai.latency.e2e"

# Metrics.
DECODE_TOKENS: Final = "slo.decode.tokens"
DECODE_CHUNKS: Final = "slo.decode.chunks"
DECODE_ACTIVE_STREAM_TIME: Final = "slo.decode.active_stream_time"
DECODE_STREAMS: Final = "slo.decode.streams"
TELEMETRY_DROPPED: Final = "slo.telemetry.dropped"
REQUESTS_STARTED: Final = "slo.requests.started"
REQUESTS_ENDED: Final = "slo.requests.ended"
REQUESTS_ACTIVE: Final = "slo.requests.active"

StreamEnd = Literal["complete", "closed", "abandoned", "cancelled", "error", "deadline"]
Outcome = Literal["ok", "error", "timeout", "rejected", "dropped", "left", "shed", "lost", "degraded"]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)

#: Factor from the first unit to the second.
CONVERSIONS: Final[dict[tuple[str, str], float]] = {
    ("ns", "ms"): 1e-6,
    ("ns", "s"): 1e-9,
    ("ms", "s"): 1e-3,
    ("ms", "ns"): 1e6,
    ("s", "ms"): 1e3,
    ("s", "ns"): 1e9,
}


def convert(value: float, source: str, target: str) -> float:
    """Return `value` in the unit `target`; units are `ns`, `ms`, `s`. An unknown pair raises KeyError."""
    return value * CONVERSIONS[source, target]


def budget_attribute(name: str) -> str:
    """Return the attribute that carries the budget of `name`: a stage, `model`, `total` or `ttft`.

    Raises ValueError for any other name.
    """
    allowed = (*STAGES, "model", "total", "ttft", "usable")
    if name not in allowed:
        raise ValueError(f"unknown budget {name!r}: expected one of {', '.join(allowed)}")
    return BUDGET_PREFIX + name


#: GPU metric name -> column of the table `gpu`. Each point carries the attributes `host.id` and `hw.id`.
GPU_METRICS: Final[dict[str, str]] = {
    "hw.gpu.utilization": "util",
    "hw.gpu.memory.usage": "mem_used_bytes",
    "hw.gpu.memory.utilization": "mem_util",
    "slo.gpu.clock.sm": "sm_mhz",
    "slo.gpu.clock.mem": "mem_mhz",
    "hw.power": "power_w",
    "slo.gpu.power.limit": "power_limit_w",
    "hw.energy": "energy_j",
    "hw.temperature": "temp_c",
    "slo.gpu.throttle": "throttle",
    "slo.gpu.up": "up",
}
