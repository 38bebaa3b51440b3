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
TOOL_ROUNDS: Final = "tool_rounds"
#: The budget that was exceeded most (of a request, a stage, `total` or `tool_rounds`), by how many seconds, and what
#: was done about it where something was: `raise` or `fallback`.
OVER: Final = "slo.over"
OVER_TIME: Final = "slo.over.time"
OVER_ACTION: Final = "slo.over.action"
#: Milliseconds that the caller still waits, in an HTTP header.
REMAINING_HEADER: Final = "x-slo-remaining-ms"
OUTCOME: Final = "slo.outcome"
SYNTHETIC: Final = "slo.synthetic"
#: The load run that sent it; it travels in baggage, as `slo.synthetic` does.
RUN_ID: Final = "slo.run.id"
#: What a request asks a service under test to do wrong, in baggage; heeded where TAILBUDGET_FAULTS=1 alone.
FAULT: Final = "slo.fault"
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
# Of a stream that still runs: seconds since its last chunk while the caller waits, median gap of what came (s).
STREAM_SILENCE: Final = "slo.stream.silence"
STREAM_USUAL_GAP: Final = "slo.stream.usual_gap"

# A log record of a request that is still running. `slo.request.age` and `.started` are seconds (age; unix time).
RUNNING_EVENT: Final = "slo.request.running"
REQUEST_AGE: Final = "slo.request.age"
REQUEST_BEGAN: Final = "slo.request.started"

# Of a request that a load run sent, on the span of the one who sent it: place of its step in the run, the load that was
# offered, its number, seconds from the planned to the real sending, what became of it.
LOAD_STEP: Final = "slo.load.step"
LOAD_OFFERED: Final = "slo.load.offered"
LOAD_NUMBER: Final = "slo.load.number"
LOAD_LATENESS: Final = "slo.load.lateness"
LOAD_OUTCOME: Final = "slo.load.outcome"
# A log record of a step of a load run that is over; its figures are attributes of the same prefix.
LOAD_STEP_EVENT: Final = "slo.load.step"

# A log record of what a user made of an answer, joined to its request by `slo.request.id`.
FEEDBACK_EVENT: Final = "slo.feedback"
FEEDBACK_SCORE: Final = "slo.feedback.score"
FEEDBACK_COMPLETED: Final = "slo.feedback.completed"
FEEDBACK_CONVERTED: Final = "slo.feedback.converted"

# Of a model call's prompt: counts, never content. Shares (`system`, `history`, `tools`, `retrieved`) are of its tokens.
PROMPT_TOKENS: Final = "slo.prompt.tokens"
PROMPT_ESTIMATED: Final = "slo.prompt.estimated"
PROMPT_MESSAGES: Final = "slo.prompt.messages"
PROMPT_VERSION: Final = "slo.prompt.version"
PROMPT_JSON_BYTES: Final = "slo.prompt.json_bytes"
PROMPT_IMAGES: Final = "slo.prompt.images"
PROMPT_IMAGE_BYTES: Final = "slo.prompt.image_bytes"
PROMPT_SHARE_PREFIX: Final = "slo.prompt.share."
ROLE: Final = "slo.role"
FALLBACK: Final = "slo.fallback"
HEDGED: Final = "slo.hedged"
ROUTE_MODEL: Final = "slo.route.model"
RATELIMIT_PREFIX: Final = "slo.ratelimit."
#: How many of a call's attempts were answered 429.
RATELIMIT_REFUSED: Final = "slo.ratelimit.refused"

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
#: What its GPU did while it was served: the GPU's hw.id, lowest clock (MHz), NVML's event bits that were set at any
#: time, mean utilisation (0 to 1), peak memory of the whole GPU (bytes), energy (J) by the tokens computed.
GPU_ID: Final = "slo.gpu.id"
GPU_SM_CLOCK_MIN: Final = "slo.gpu.sm_clock_min"
GPU_THROTTLE: Final = "slo.gpu.throttle"
GPU_UTIL: Final = "slo.gpu.util"
GPU_MEMORY_PEAK: Final = "slo.gpu.memory_peak"
GPU_ENERGY: Final = "slo.gpu.energy"

# Metrics.
DECODE_TOKENS: Final = "slo.decode.tokens"
DECODE_CHUNKS: Final = "slo.decode.chunks"
DECODE_ACTIVE_STREAM_TIME: Final = "slo.decode.active_stream_time"
DECODE_STREAMS: Final = "slo.decode.streams"
TELEMETRY_DROPPED: Final = "slo.telemetry.dropped"
REQUESTS_STARTED: Final = "slo.requests.started"
REQUESTS_ENDED: Final = "slo.requests.ended"
REQUESTS_ACTIVE: Final = "slo.requests.active"
REQUESTS_OLDEST_AGE: Final = "slo.requests.oldest_age"
LOOP_LAG: Final = "slo.loop.lag"
RATELIMIT_REMAINING: Final = "slo.ratelimit.remaining"

# Of guards: each has its name in `slo.guard`.
GUARD: Final = "slo.guard"
BREAKER_STATE: Final = "slo.breaker.state"
BRANCHES: Final = "slo.fan_out.branches"
BRANCHES_FAILED: Final = "slo.fan_out.failed"
BRANCHES_LATE: Final = "slo.fan_out.late"
BRANCHES_PATCHED: Final = "slo.fan_out.patched"
CACHE_HITS: Final = "slo.cache.hits"
CACHE_MISSES: Final = "slo.cache.misses"
CACHE_HIT: Final = "slo.cache.hit"
CACHE_AGE: Final = "slo.cache.age"
HEDGE_SENT: Final = "slo.hedge.sent"
HEDGE_WON: Final = "slo.hedge.won"
HEDGE_WASTED_TOKENS: Final = "slo.hedge.wasted_tokens"
LIMIT_CURRENT: Final = "slo.limit.current"
LIMIT_IN_FLIGHT: Final = "slo.limit.in_flight"
QUEUE_DEPTH: Final = "slo.queue.depth"
SHED: Final = "slo.shed"

#: Methods that the conventions know by name.
HTTP_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
)

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


#: Looked up once: some dozen durations a request are told in seconds.
S_PER_NS: Final = convert(1, "ns", "s")


def seconds(duration_ns: int) -> float:
    """Return a duration in seconds."""
    return duration_ns * S_PER_NS


def budget_attribute(name: str) -> str:
    """Return the attribute that carries the budget of `name`: a stage, `model`, `total` or `ttft`.

    Raises ValueError for any other name.
    """
    allowed = (*STAGES, "model", "total", "ttft", "usable")
    if name not in allowed:
        raise ValueError(f"unknown budget {name!r}: expected one of {', '.join(allowed)}")
    return BUDGET_PREFIX + name


#: Engine metric name -> column of the table `engine`; each point carries `instance`, or its resource names it.
ENGINE_METRICS: Final[dict[str, str]] = {
    "slo.engine.up": "up",
    "slo.engine.running": "running",
    "slo.engine.waiting": "waiting",
    "slo.engine.kv_used": "kv_used",
    "slo.engine.batch_tokens": "batch_tokens",
    "slo.engine.step_time": "step_ms",
    "slo.engine.prefix_queries": "prefix_queries",
    "slo.engine.prefix_hits": "prefix_hits",
    "slo.engine.prompt_tokens": "prompt_tokens",
    "slo.engine.generation_tokens": "generation_tokens",
    "slo.engine.drafts": "drafts",
    "slo.engine.accepted": "accepted",
    "slo.engine.preemptions": "preemptions",
    "slo.engine.steps": "steps",
}

#: GPU metric name -> column of the table `gpu`. Each point carries the attributes `host.id` and `hw.id`.
GPU_METRICS: Final[dict[str, str]] = {
    "hw.gpu.utilization": "util",
    "hw.gpu.memory.usage": "mem_used_bytes",
    "hw.gpu.memory.utilization": "mem_util",
    "hw.gpu.memory.limit": "mem_limit_bytes",
    "slo.gpu.clock.sm": "sm_mhz",
    "slo.gpu.clock.mem": "mem_mhz",
    "hw.power": "power_w",
    "slo.gpu.power.limit": "power_limit_w",
    "hw.energy": "energy_j",
    "hw.temperature": "temp_c",
    "slo.gpu.throttle": "throttle",
    "slo.gpu.up": "up",
}
