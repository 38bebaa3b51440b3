-- The tables of the data file. The comment above a table and behind a column becomes its `comment on` in the database.
-- Durations in `*_ms` are DOUBLE milliseconds, in `*_ns` BIGINT nanoseconds; instants are TIMESTAMPTZ.
-- What lands goes into `*_open`; hours that are over go from there to Parquet files, and the view without the suffix has
-- both, with the comments of its table.
-- Integers of spans are stored as they come: to find out how to pack them took 13 % of landing's time for 16 bytes a span.

-- One row a received span, at most one a (trace_id, span_id).
create table spans_open (
    trace_id UUID not null,            -- its 16 bytes
    span_id UBIGINT not null,          -- big-endian value of the 8 bytes
    parent_span_id UBIGINT,            -- null at a root
    name VARCHAR not null,             -- as sent
    kind VARCHAR not null,             -- INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER or UNSPECIFIED
    started TIMESTAMPTZ not null,      -- start_ns as an instant
    start_ns BIGINT using compression uncompressed not null, -- unix nanoseconds
    end_ns BIGINT using compression uncompressed not null, -- unix nanoseconds
    duration_ns BIGINT using compression uncompressed not null, -- end_ns - start_ns
    service VARCHAR,                   -- service.name of the resource
    scope VARCHAR,                     -- name of the instrumentation scope
    status VARCHAR not null,           -- UNSET, OK or ERROR
    status_message VARCHAR,            -- up to its first colon, quotation or bracket, unless content is kept
    resource_id UBIGINT not null,      -- row of resources
    role VARCHAR not null,             -- what the recogniser takes it for: call, engine, slice, tail, stage, container, network or ignored
    stage VARCHAR,                     -- stage that owns its time, null for none
    rule VARCHAR not null,             -- the recogniser's row that fired
    request VARCHAR,                   -- slo.request: the route under which the service marked it as a request
    request_ref VARCHAR,               -- slo.request.id
    route VARCHAR,                     -- http.route
    tenant VARCHAR,                    -- slo.tenant
    conversation_id VARCHAR,           -- gen_ai.conversation.id
    outcome VARCHAR,                   -- slo.outcome
    synthetic BOOLEAN,                 -- slo.synthetic
    run_id VARCHAR,                    -- slo.run.id: the load run that sent it
    budgets MAP(VARCHAR, DOUBLE),      -- milliseconds by name, from slo.budget.*
    provider VARCHAR,                  -- model provider
    model VARCHAR,                     -- response model, else requested model
    operation VARCHAR,                 -- gen_ai.operation.name
    response_id VARCHAR,               -- gen_ai.response.id
    stream BOOLEAN,                    -- null when the telemetry does not say
    input_tokens BIGINT using compression uncompressed, -- prompt tokens
    output_tokens BIGINT using compression uncompressed, -- generated tokens
    cached_tokens BIGINT using compression uncompressed, -- prompt tokens read from a cache
    max_tokens BIGINT using compression uncompressed, -- limit that was asked for
    finish_reason VARCHAR,             -- first of the finish reasons
    error VARCHAR,                     -- error.type, else exception type
    status_code BIGINT using compression uncompressed, -- HTTP status
    server_address VARCHAR,            -- server.address with server.port
    peer VARCHAR,                      -- what a client span talks to: server, database or tool name
    ttfc_ns BIGINT using compression uncompressed, -- first chunk since the span's start
    ttft_ns BIGINT using compression uncompressed, -- first generated token since the span's start
    ttft_source VARCHAR,               -- the signal that gave ttft_ns
    usable_ns BIGINT using compression uncompressed, -- slo.time_to_usable
    usable_source VARCHAR,             -- slo.usable.source
    final_ns BIGINT using compression uncompressed, -- slo.time_to_final
    queue_ns BIGINT using compression uncompressed, -- engine: time in queue
    prefill_ns BIGINT using compression uncompressed, -- engine: time in prefill
    decode_ns BIGINT using compression uncompressed, -- engine: time in decode
    connect_ns BIGINT using compression uncompressed, -- slo.net pool_wait + dns + connect + tls + send
    backoff_ns BIGINT using compression uncompressed, -- slo.net.backoff
    attempts BIGINT using compression uncompressed, -- slo.net.attempts
    chunks BIGINT using compression uncompressed, -- slo.stream.chunks
    stream_end VARCHAR,                -- slo.stream.end
    max_gap_ns BIGINT using compression uncompressed, -- slo.stream.max_gap
    stalls BIGINT using compression uncompressed, -- slo.stream.stalls
    stall_ns BIGINT using compression uncompressed, -- slo.stream.stall_time
    consumer_ns BIGINT using compression uncompressed, -- slo.stream.consumer_time
    call_role VARCHAR,                 -- slo.role: what a model call is for
    hedged BOOLEAN,                    -- slo.hedged
    fallback BOOLEAN,                  -- slo.fallback
    feedback VARCHAR,                  -- slo.feedback
    streamed_ns BIGINT using compression uncompressed, -- on the second record of a streamed call: from its headers to its end
    last_event_ns BIGINT using compression uncompressed, -- last event since the span's start
    attrs JSON not null                -- every attribute that the content rule keeps, under its own key
);

-- One row an event of a span.
create table span_events_open (
    trace_id UUID not null,            -- of its span
    span_id UBIGINT not null,          -- of its span
    name VARCHAR not null,             -- as sent
    t TIMESTAMPTZ not null,            -- when it happened
    t_ns BIGINT not null,              -- unix nanoseconds
    attrs JSON not null                -- attributes that the content rule keeps
);

-- One row a link of a span.
create table span_links_open (
    trace_id UUID not null,            -- of its span
    span_id UBIGINT not null,          -- of its span
    linked_trace_id UUID not null,     -- where it points
    linked_span_id UBIGINT not null,   -- where it points
    attrs JSON not null,               -- attributes that the content rule keeps
    started TIMESTAMPTZ                -- start of its span
);

-- One row a resource: the process that sent spans, metrics or logs.
create table resources (
    resource_id UBIGINT primary key,   -- 64-bit hash of the attributes
    service VARCHAR,                   -- service.name
    instance VARCHAR,                  -- service.instance.id
    version VARCHAR,                   -- service.version
    region VARCHAR,                    -- cloud.region
    attrs JSON not null                -- all attributes
);

-- One row a received metric point.
create table metrics_open (
    name VARCHAR not null,             -- metric name
    kind VARCHAR not null,             -- gauge, sum, histogram, exponential_histogram or summary
    unit VARCHAR,                      -- as sent
    temporality VARCHAR,               -- delta, cumulative, or null where it has no meaning
    monotonic BOOLEAN,                 -- of sums
    started TIMESTAMPTZ,               -- start of the interval
    t TIMESTAMPTZ not null,            -- time of the point
    value DOUBLE,                      -- of gauges and sums
    value_int BIGINT,                  -- the same, exactly, where it was sent as an integer
    n UBIGINT,                         -- count, of histograms and summaries
    total DOUBLE,                      -- sum, of histograms and summaries
    min DOUBLE,                        -- smallest value, of histograms that tell it
    max DOUBLE,                        -- largest value, of histograms that tell it
    bounds DOUBLE[],                   -- bounds of a histogram; quantiles (0 to 1) of a summary
    counts UBIGINT[],                  -- counts by bucket
    zero_threshold DOUBLE,             -- width of an exponential histogram's zero bucket
    quantile_values DOUBLE[],          -- of a summary: the value at each quantile in bounds
    flags UINTEGER,                    -- as sent, 1 = no value was recorded; null when 0
    exemplars JSON,                    -- [{t_ns, value, trace_id, span_id, attrs}], null without any
    description VARCHAR,               -- as sent
    resource_id UBIGINT not null,      -- row of resources
    scope VARCHAR,                     -- name of the instrumentation scope
    attrs JSON not null                -- attributes of the point
);

-- One row a received log record.
create table logs_open (
    trace_id UUID,                     -- of the span in which it was written, null when outside of any
    span_id UBIGINT,                   -- of the span in which it was written
    t TIMESTAMPTZ not null,            -- when it happened, else when it was observed, else when it arrived
    observed TIMESTAMPTZ,              -- when the collecting SDK saw it
    severity_number INTEGER,           -- 1 to 24, from TRACE to FATAL4; null when unspecified
    severity VARCHAR,                  -- severity as text, as sent
    event_name VARCHAR,                -- what kind of event it is, from its own field or the attribute event.name
    body JSON,                         -- what it says, null when it has none or the content rule drops it
    service VARCHAR,                   -- service.name of the resource
    scope VARCHAR,                     -- name of the instrumentation scope
    resource_id UBIGINT not null,      -- row of resources
    attrs JSON not null                -- attributes that the content rule keeps
);

-- One row a user interaction.
create table requests (
    request_id VARCHAR not null,       -- slo.request.id, else the span id in hex
    trace_id UUID not null,            -- its trace
    span_id UBIGINT not null,          -- its outermost span
    started TIMESTAMPTZ not null,      -- start of that span
    service VARCHAR,                   -- service.name
    route VARCHAR,                     -- slo.request, else http.route, else span name
    tenant VARCHAR,                    -- slo.tenant
    model VARCHAR,                     -- of the last streamed call, else of the last call
    version VARCHAR,                   -- service.version
    region VARCHAR,                    -- cloud.region
    conversation_id VARCHAR,           -- gen_ai.conversation.id
    outcome VARCHAR not null,          -- ok, error, timeout, rejected, dropped, left, shed, lost or degraded
    left_in_stage VARCHAR,             -- stage in which a dropped, left or lost request ended
    left_after_ms DOUBLE,              -- time until the client left
    total_ms DOUBLE not null,          -- sum of the nine stage columns
    ttft_ms DOUBLE,                    -- first token of the last streamed call on the path, null when none streamed
    usable_ms DOUBLE,                  -- first usable answer
    usable_source VARCHAR,             -- which signal gave usable_ms
    final_ms DOUBLE,                   -- last token, error or cancel
    network_ms DOUBLE not null,        -- on the critical path
    queue_ms DOUBLE not null,          -- on the critical path
    retrieval_ms DOUBLE not null,      -- on the critical path
    prompt_ms DOUBLE not null,         -- on the critical path
    prefill_ms DOUBLE not null,        -- on the critical path
    decode_ms DOUBLE not null,         -- on the critical path
    tools_ms DOUBLE not null,          -- on the critical path
    post_ms DOUBLE not null,           -- on the critical path
    other_ms DOUBLE not null,          -- on the critical path, explained by no span
    calls BIGINT not null,             -- model calls
    tool_rounds BIGINT not null,       -- tool spans that do not overlap an earlier one count as a new round
    attempts BIGINT,                   -- HTTP attempts of its calls, null when unknown
    input_tokens BIGINT,               -- sum over calls
    output_tokens BIGINT,              -- sum over calls
    cached_tokens BIGINT,              -- sum over calls
    prompt_bucket BIGINT,              -- power of two at or above input_tokens
    budget_ms DOUBLE,                  -- budget of the total, null when none
    over_stage VARCHAR,                -- the stage to blame, null when nothing is over
    over_by VARCHAR,                   -- budget or baseline: what over_stage was measured against
    skew_ms DOUBLE,                    -- largest clock shift that was taken out, null when none
    root_kind VARCHAR,                 -- slo, server or root: why its outermost span counts as a request
    cost_usd DOUBLE,                   -- null without a price
    fallback BOOLEAN,                  -- a fallback model answered
    feedback VARCHAR,                  -- converted, completed, not completed, not converted or the score; else slo.feedback of its span
    synthetic BOOLEAN not null,        -- load tests and probes: kept, but in no objective
    weight DOUBLE,                     -- requests that it stands for, by the sampling threshold in its tracestate; null without one
    ttft_budget_ms DOUBLE,             -- budget of the first token, null when none
    run_id VARCHAR                     -- the load run that sent it, null for a user's
);

-- One row a model call, duplicates joined.
create table calls (
    trace_id UUID not null,            -- its trace
    span_id UBIGINT not null,          -- the span that stands for the call
    request_id VARCHAR,                -- its request, null for a call outside of any
    started TIMESTAMPTZ not null,      -- start of that span
    service VARCHAR,                   -- service.name of the caller
    provider VARCHAR,                  -- model provider
    model VARCHAR,                     -- response model, else requested model
    role VARCHAR,                      -- slo.role
    stream BOOLEAN,                    -- null when the telemetry does not say
    outcome VARCHAR not null,          -- ok, timeout, error, rejected or stopped
    status_code BIGINT,                -- HTTP status
    error VARCHAR,                     -- error type
    input_tokens BIGINT,               -- prompt tokens
    output_tokens BIGINT,              -- generated tokens
    cached_tokens BIGINT,              -- prompt tokens read from a cache
    max_tokens BIGINT,                 -- limit that was asked for
    prompt_bucket BIGINT,              -- power of two at or above input_tokens
    ttfc_ms DOUBLE,                    -- first chunk of any kind
    ttft_ms DOUBLE,                    -- first generated token, null for calls that do not stream
    ttft_source VARCHAR,               -- the signal that gave ttft_ms
    server_ttft_ms DOUBLE,             -- first token on the server's clock
    tpot_ms DOUBLE,                    -- (last token - first token) / (tokens - 1)
    total_ms DOUBLE not null,          -- length of the call
    network_ms DOUBLE,                 -- of its time
    queue_ms DOUBLE,                   -- of its time
    prefill_ms DOUBLE,                 -- of its time
    decode_ms DOUBLE,                  -- of its time
    first_token_wait_ms DOUBLE,        -- wait that no server explained, shown as prefill
    attempts BIGINT,                   -- HTTP attempts
    backoff_ms DOUBLE,                 -- waits between attempts
    chunks BIGINT,                     -- chunks received
    max_gap_ms DOUBLE,                 -- longest gap between chunks
    stalls BIGINT,                     -- gaps that a reader notices
    stall_ms DOUBLE,                   -- time in stalls
    consumer_ms DOUBLE,                -- time the caller sat on a chunk
    finish_reason VARCHAR,             -- why generation ended
    response_id VARCHAR,               -- id of the answer
    server_address VARCHAR,            -- where it went
    region VARCHAR,                    -- cloud.region of the caller
    hedged BOOLEAN,                    -- one of several racing calls
    split VARCHAR not null,            -- server, first_token, failed or none: the rule that cut the call into stages
    spans UBIGINT[] not null,          -- ids of the spans joined into it
    cost_usd DOUBLE,                   -- null without a price
    gpu_s DOUBLE,                      -- its part of the engine's time: prefill and decode over the largest batch that it was in; null where not told
    energy_j DOUBLE                    -- its part of the GPU's energy, as the engine tells it, else null
);

-- One row a streamed call and side that told the gaps between its chunks.
create table streams (
    trace_id UUID not null,            -- its trace
    span_id UBIGINT not null,          -- the span that told them
    request_id VARCHAR,                -- its request, null for a call outside of any
    side VARCHAR not null,             -- client or server
    model VARCHAR,                     -- model of the call
    started TIMESTAMPTZ not null,      -- start of that span
    gaps_us UINTEGER[] not null        -- microseconds between token-bearing chunks, in order, the first 4,096
);

-- One row a request x stage that has time or spans.
create table stages (
    request_id VARCHAR not null,       -- its request
    trace_id UUID not null,            -- its trace
    started TIMESTAMPTZ not null,      -- start of the request
    stage VARCHAR not null,            -- one of the nine
    spans BIGINT not null,             -- spans in it
    busy_ms DOUBLE not null,           -- union of their time
    critical_ms DOUBLE not null,       -- of the critical path
    budget_ms DOUBLE,                  -- null when none
    over_ms DOUBLE                     -- critical_ms - budget_ms when positive, else null
);

-- One row a span in a stage; a model call has one a stage it was cut into.
create table stage_spans (
    request_id VARCHAR not null,       -- its request
    trace_id UUID not null,            -- its trace
    span_id UBIGINT not null,          -- the span
    stage VARCHAR not null,            -- its stage
    name VARCHAR not null,             -- the span's name
    peer VARCHAR,                      -- what it talked to
    started TIMESTAMPTZ not null,      -- start of this part
    offset_ms DOUBLE not null,         -- start of this part since the request's start
    duration_ms DOUBLE not null,       -- length of this part
    critical_ms DOUBLE not null,       -- of it on the critical path
    outcome VARCHAR                    -- ok or error
);

-- One row a request over a budget.
create table violations (
    request_id VARCHAR not null,       -- the request
    trace_id UUID not null,            -- its trace
    started TIMESTAMPTZ not null,      -- its start
    route VARCHAR,                     -- its route
    tenant VARCHAR,                    -- its tenant
    model VARCHAR,                     -- its model
    total_ms DOUBLE not null,          -- how long it took
    budget_ms DOUBLE,                  -- budget of what is over: of over_stage, else of the total
    over_stage VARCHAR,                -- the stage to blame
    over_ms DOUBLE                     -- by how much
);

-- One row a minute (an hour, of what ended 26 hours ago), measure, group and bucket, or several that add up: how many
-- requests that are not synthetic had a value between 1.02^(bucket - 1) and 1.02^bucket milliseconds.
create table rollup_minute (
    minute TIMESTAMPTZ not null,       -- in which the requests started
    measure VARCHAR not null,          -- column of requests: total_ms, ttft_ms, usable_ms, final_ms or a stage's
    service VARCHAR,                   -- of the requests
    route VARCHAR,                     -- of the requests
    model VARCHAR,                     -- of the requests
    tenant VARCHAR,                    -- of the requests; `other` for all but the 200 largest of a day, once it ended 26 hours ago
    outcome VARCHAR,                   -- of the requests
    bucket INTEGER not null,           -- -32768 for a value of 0
    n BIGINT not null,                 -- requests; negative where a late span changed what was counted before
    total_ms DECIMAL(18, 3) not null   -- sum of their values, each rounded to the microsecond
);

-- One row a request that runs longer than its first token should take, as its service says every 5 s; gone once its span came.
create table live (
    trace_id UUID not null,            -- its trace
    span_id UBIGINT not null,          -- its span, which has not come yet
    request_id VARCHAR not null,       -- slo.request.id, else the span id in hex
    started TIMESTAMPTZ not null,      -- when it began, on the clock of its service
    service VARCHAR,                   -- service.name
    route VARCHAR,                     -- slo.request
    tenant VARCHAR,                    -- slo.tenant
    stage VARCHAR,                     -- what it was doing when last heard of
    age_s DOUBLE not null,             -- how long it had run then
    heard TIMESTAMPTZ not null,        -- when that was, on the collector's clock
    outcome VARCHAR,                   -- null while it runs; lost after 15 s of silence: then it is a row of requests too
    changed BOOLEAN not null,          -- it was lost or heard of again since its trace was assembled
    resource_id UBIGINT not null,      -- row of resources
    model VARCHAR,                     -- of the stream that it reads, null while it reads none
    budget_ms DOUBLE,                  -- budget of the total, null when none
    ttft_ms DOUBLE,                    -- first token of the latest stream since started, null before it
    chunks BIGINT,                     -- with a token so far, of the stream that it reads, null while it reads none
    silence_ms DOUBLE,                 -- since the last of them, while it waits for the next
    usual_gap_ms DOUBLE,               -- median of the gaps so far
    stalls BIGINT,                     -- gaps over a second and 8 times the median so far, the silence included
    stall_ms DOUBLE                    -- how long a reader has waited for text so far
);

-- One row a record of what a user made of an answer, told later by its service; of several the newest word counts.
create table feedback (
    request_id VARCHAR not null,       -- slo.request.id of the request
    t TIMESTAMPTZ not null,            -- when it was said
    score DOUBLE,                      -- how good the answer was, on the service's own scale
    completed BOOLEAN,                 -- whether the user's task was completed
    converted BOOLEAN                  -- whether the user converted
);

-- One row a series and 10 s: how fast tokens came while streams were decoding.
create table decode_rate (
    t TIMESTAMPTZ not null,            -- start of the 10 s
    series VARCHAR not null,           -- model, provider, instance, side and unit in one key
    model VARCHAR,                     -- model
    provider VARCHAR,                  -- provider
    instance VARCHAR,                  -- server.address, else service.instance.id
    side VARCHAR not null,             -- client or server
    unit VARCHAR not null,             -- token, chunk or span: what `tokens` counts
    tokens DOUBLE not null,            -- decoded in these 10 s
    active_stream_s DOUBLE not null,   -- summed over the streams
    streams DOUBLE                     -- decoding at once, the largest seen
);

-- One row an alert; open while closed is null.
create table alerts (
    alert_id VARCHAR primary key,      -- kind, rule, series and opening time in one key
    kind VARCHAR not null,             -- burn, sag, blind or diagnosis
    rule VARCHAR not null,             -- the rule that fired
    severity VARCHAR not null,         -- page or ticket
    opened TIMESTAMPTZ not null,       -- end of the last bin that the decision needed
    closed TIMESTAMPTZ,                -- null while open
    model VARCHAR,                     -- what it is about
    provider VARCHAR,                  -- what it is about
    instance VARCHAR,                  -- what it is about
    value DOUBLE,                      -- what was seen
    threshold DOUBLE,                  -- what was allowed
    summary VARCHAR not null,          -- one sentence for a person
    scope VARCHAR,                     -- what sags with it, null for a series alone: alerts of one scope are one page
    labels JSON,                       -- what it is about by name: objective, part, ...
    owner VARCHAR,                     -- who answers for it, from the objective
    runbook VARCHAR,                   -- what to do, from the objective
    acknowledged TIMESTAMPTZ,          -- when a person took it, null until then
    acknowledged_by VARCHAR,           -- who took it
    degrade_first VARCHAR,             -- what to do without first, from the objective
    fires TIMESTAMPTZ,                 -- it is pending until then, and nobody is told; null where its rule has no `for`
    evidence JSON                      -- of a diagnosis: the figures that it rests on
);

-- One row an alert, channel and transition that somebody is told of; rows of one message go and arrive together.
create table deliveries (
    delivery_id VARCHAR primary key,   -- the same whenever it is tried again: receivers know a repeat by it
    message_id VARCHAR not null,       -- of the message that it is part of
    alert_id VARCHAR not null,         -- what it is about
    transition VARCHAR not null,       -- firing, repeat or resolved
    channel VARCHAR not null,          -- where to
    grouped_by VARCHAR not null,       -- alerts of one group are one message; messages of one group arrive in order
    created TIMESTAMPTZ not null,      -- when it was decided
    attempts INTEGER not null,         -- how often it was tried
    next_attempt TIMESTAMPTZ,          -- when it is tried next, null when it is not
    delivered TIMESTAMPTZ,             -- when the receiver took it, null until then
    error VARCHAR,                     -- why the last attempt failed, null after one that did not
    content JSON                       -- what is said, null once it is delivered or given up
);

-- One row a silence: nobody is told of alerts that have all its labels.
create table silences (
    silence_id VARCHAR primary key,    -- its name
    created TIMESTAMPTZ not null,      -- from when
    until TIMESTAMPTZ not null,        -- up to when
    labels JSON not null,              -- kind, rule, severity, owner, objective, model, ... by name
    created_by VARCHAR,                -- who wants it quiet
    comment VARCHAR                    -- and why
);

-- One row a mark: something that people or deployments did, to be seen beside what the latency did.
create table marks (
    mark_id VARCHAR primary key,       -- its name
    t TIMESTAMPTZ not null,            -- when
    kind VARCHAR not null,             -- note, version, prompt, flag or model
    service VARCHAR,                   -- where, null for everywhere
    label VARCHAR not null,            -- one sentence
    old_value VARCHAR,                 -- of a change: before
    new_value VARCHAR,                 -- of a change: after
    created_by VARCHAR                 -- who said so, null for what was seen in requests
);

-- One row an objective, part and minute that had events: what its error budget is counted from.
create table slo_minute (
    objective VARCHAR not null,        -- its name
    part VARCHAR not null,             -- the tenant, model, ... that has a budget of its own; empty when all share one
    minute TIMESTAMPTZ not null,       -- start of the minute, or of the slice
    n BIGINT not null,                 -- events that count, or 1 for a slice
    bad BIGINT not null,               -- of them bad
    weight DOUBLE,                     -- requests that these events stand for, more than n where traces are sampled; null as n
    bad_weight DOUBLE,                 -- of them bad; null as bad
    spread DOUBLE,                     -- variance of weight as an estimate, 0 where nothing is sampled; null as 0
    bad_spread DOUBLE                  -- the same of bad_weight
);

-- One row an objective and part: how its error budget stands.
create table slo_status (
    objective VARCHAR not null,        -- its name
    part VARCHAR not null,             -- the tenant, model, ... that has a budget of its own; empty when all share one
    judged TIMESTAMPTZ not null,       -- when
    goal VARCHAR not null,             -- what is promised, in words
    slice VARCHAR,                     -- requests that it is about, as an SQL condition
    measure VARCHAR,                   -- milliseconds that its first limit is on, as an SQL expression over requests; total_ms without one
    limit_ms DOUBLE,                   -- that limit, null without one
    target DOUBLE not null,            -- share that must be good, 0 to 1
    period VARCHAR not null,           -- over what time: 30d, or month
    n BIGINT not null,                 -- events of the period
    bad BIGINT not null,               -- of them bad
    good_share DOUBLE,                 -- 1 - bad / n
    budget_left DOUBLE,                -- share of the error budget, negative when overspent
    hours_left DOUBLE,                 -- until it is spent at the last hour's burn, null while nothing burns
    burn_1h DOUBLE,                    -- budgets a period that the last hour's bad share would spend
    burn_6h DOUBLE,                    -- the same of 6 hours
    burn_1d DOUBLE,                    -- the same of a day
    burn_3d DOUBLE,                    -- the same of 3 days
    firing VARCHAR[] not null,         -- burn rules that fire
    blind_since TIMESTAMPTZ,           -- when the last event was, where more were expected since; else null
    owner VARCHAR,                     -- who answers for it
    runbook VARCHAR,                   -- what to do
    requests DOUBLE,                   -- requests that the events stand for, more than n where traces are sampled
    margin DOUBLE,                     -- the good share is so much more or less (95 %), for sampling; 0 where nothing is sampled
    running BIGINT,                    -- of bad: requests that still run, over their limit already
    coverage DOUBLE                    -- of the requests that its services counted in the last hour, the share that came; null where none count
);

-- One row a sample of one GPU.
create table gpu (
    sampled_at TIMESTAMPTZ not null,   -- when
    host VARCHAR not null,             -- host.id
    gpu VARCHAR not null,              -- hw.id
    util DOUBLE,                       -- share of time busy, 0 to 1
    mem_used_bytes BIGINT,             -- memory in use
    mem_util DOUBLE,                   -- share of the memory in use, 0 to 1
    sm_mhz DOUBLE,                     -- clock of the multiprocessors
    mem_mhz DOUBLE,                    -- clock of the memory
    power_w DOUBLE,                    -- power drawn
    power_limit_w DOUBLE,              -- power allowed
    energy_j DOUBLE,                   -- counter since the driver was loaded
    temp_c DOUBLE,                     -- temperature
    throttle BIGINT,                   -- NVML clock event bits
    up BOOLEAN not null,               -- false when the GPU did not answer
    mem_limit_bytes BIGINT,            -- memory there is, once a second
    missing VARCHAR                    -- counters that it does not tell, each with NVML's reason, once a second; else null
);

-- One row a sample of one inference engine and model: pushed by our runtime, or scraped from its /metrics.
create table engine (
    t TIMESTAMPTZ not null,            -- when
    instance VARCHAR not null,         -- host and port
    model VARCHAR,                     -- model, null where the engine does not say
    source VARCHAR,                    -- vllm, sglang, tailbudget, or the service that pushed it
    up BOOLEAN not null,               -- false when it did not answer
    running DOUBLE,                    -- requests in the batch
    waiting DOUBLE,                    -- requests in the queue
    kv_used DOUBLE,                    -- share of the KV cache in use, 0 to 1
    batch_tokens DOUBLE,               -- mean tokens computed a step since the last sample
    step_ms DOUBLE,                    -- length of a step, mean since the last sample
    prefix_queries DOUBLE,             -- prompt tokens looked up in the prefix cache since the last sample
    prefix_hits DOUBLE,                -- and found there
    prompt_tokens DOUBLE,              -- computed since the last sample
    generation_tokens DOUBLE,          -- generated since the last sample
    drafts DOUBLE,                     -- tokens drafted by speculation since the last sample
    accepted DOUBLE,                   -- and accepted
    preemptions DOUBLE,                -- since the last sample
    steps DOUBLE,                      -- computed since the last sample
    gpu VARCHAR                        -- hw.id of the GPU that it computes on; null on a CPU and where the engine does not say
);

-- One row a minute, sender and reason: what was received, and what of it was not stored.
create table ingest_health (
    minute TIMESTAMPTZ not null,       -- start of the minute
    service VARCHAR,                   -- who sent it
    signal VARCHAR not null,           -- traces, metrics or logs
    reason VARCHAR not null,           -- accepted, or why not: duplicate, bad_id, content_dropped, ...
    n BIGINT not null,                 -- spans, points, records or attributes
    lag_sum_s DOUBLE,                  -- of what was accepted: seconds from its time, a span's end, until it landed, summed
    lag_max_s DOUBLE                   -- of what was accepted: the most; negative when the sender's clock is ahead
);

-- One row a trace that has spans not yet assembled.
create table dirty (
    trace_id UUID primary key,         -- the trace
    since TIMESTAMPTZ not null,        -- arrival of the first span not yet assembled
    last_arrival TIMESTAMPTZ not null, -- arrival of the last one
    root_seen BOOLEAN not null,        -- a span without a parent is among those that arrived
    first_ns BIGINT,                   -- earliest start of the spans that arrived
    last_ns BIGINT                     -- latest end of them
);

-- One row a request body that was stored, so that a repeat is acknowledged and skipped.
create table bodies (
    digest BLOB not null,              -- blake2b-128 of the body
    landed TIMESTAMPTZ not null,       -- when
    spans BIGINT not null              -- spans stored from it
);

-- One row: what this file is and how far the journal has landed.
create table meta (
    schema_version INTEGER not null,   -- raised by every change of this file
    journal_segment BIGINT not null,   -- the segment that was landed last
    journal_offset BIGINT not null,    -- bytes of it that are landed
    collector_id VARCHAR               -- 8 hex digits drawn once: stands in the name of every sealed file
);

-- One row a Parquet file that holds rows of a view such as spans; a file that is not listed does not count.
create table sealed_files (
    file VARCHAR not null,             -- path below the data folder
    view VARCHAR not null,             -- the view that reads it: spans, span_events, span_links, metrics or logs
    first TIMESTAMPTZ not null,        -- time of its oldest row
    last TIMESTAMPTZ not null,         -- time of its newest row
    n BIGINT not null,                 -- rows
    bytes BIGINT not null,             -- size of the file
    columns VARCHAR[] not null,        -- its columns: a file of an older version may have fewer
    sealed TIMESTAMPTZ not null        -- when it was written
);

-- One row a table or view: what retention and --max-disk have ended of it, which its copies elsewhere keep.
create table retained (
    relation VARCHAR primary key,      -- its name
    since TIMESTAMPTZ not null         -- rows of before may have ended here
);

-- One row a received span; a repeat that came more than an hour later is one more until its hour is sealed.
create or replace view spans as
from spans_open;

-- One row an event of a span.
create or replace view span_events as
from span_events_open;

-- One row a link of a span.
create or replace view span_links as
from span_links_open;

-- One row a received metric point.
create or replace view metrics as
from metrics_open;

-- One row a received log record.
create or replace view logs as
from logs_open;

-- The spans of one trace, children below their parent in order of their start: from trace('4bf92f3577b34da6...').
create macro trace(id) as table
    with recursive
    one as materialized (from spans where trace_id = id::UUID),
    walk as (
        select span_id, 0 as depth, [struct_pack(start_ns, span_id)] as path
        from one
        where parent_span_id is null or parent_span_id not in (select span_id from one)
        union all
        select one.span_id, walk.depth + 1, list_append(walk.path, struct_pack(one.start_ns, one.span_id))
        from one join walk on one.parent_span_id = walk.span_id
        where walk.depth < 1000
    )
    select walk.depth, one.*
    from one left join walk on walk.span_id = one.span_id
    order by walk.path nulls last, one.start_ns, one.span_id;

-- One request: from req('its request_id').
create macro req(id) as table
    from requests where request_id = id;

-- An instant so long ago: where started >= since('1h').
create macro since(span) as now() - span::INTERVAL;
