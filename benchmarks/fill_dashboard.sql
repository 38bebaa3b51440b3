-- A day of $n requests up to $until with four stages each, one in twenty over its budget, and four engines with GPUs and token rates.
insert into requests by name
select
    'req-' || i as request_id,
    md5(i::varchar)::uuid as trace_id,
    hash(i) as span_id,
    $until::timestamptz - to_microseconds((86400e6 * i / $n)::bigint) as started,
    'shop' as service,
    '/chat' as route,
    'tenant-' || hash(i) % 50 as tenant,
    'gpt-small' as model,
    'ok' as outcome,
    queue_ms + retrieval_ms + prefill_ms + decode_ms as total_ms,
    queue_ms + retrieval_ms + prefill_ms as ttft_ms,
    0 as network_ms, queue_ms, retrieval_ms, 0 as prompt_ms, prefill_ms, decode_ms, 0 as tools_ms, 0 as post_ms,
    0 as other_ms,
    1 as calls, 0 as tool_rounds, 700 as input_tokens, 80 as output_tokens, 2500.0 as budget_ms,
    if(decode_ms > 1450, 'decode', null) as over_stage, if(decode_ms > 1450, 'budget', null) as over_by,
    false as synthetic
from (
    select
        range as i,
        5.0 + hash(range, 1) % 40 as queue_ms,
        60.0 + hash(range, 2) % 200 as retrieval_ms,
        100.0 + hash(range, 3) % 300 as prefill_ms,
        500.0 + hash(range, 4) % 1000 as decode_ms
    from range($n::bigint)
);
insert into stages by name
select
    request_id, trace_id, started, stage, 1 as spans, ms as busy_ms, ms as critical_ms, budget_ms,
    if(ms > budget_ms, ms - budget_ms, null) as over_ms
from (
    select
        request_id, trace_id, started,
        unnest(['queue', 'retrieval', 'prefill', 'decode']) as stage,
        unnest([queue_ms, retrieval_ms, prefill_ms, decode_ms]) as ms,
        unnest([100.0, 300.0, 500.0, 1450.0]) as budget_ms
    from requests
);
insert into violations by name
select
    request_id, trace_id, started, route, tenant, model, total_ms, 1450.0 as budget_ms, over_stage,
    decode_ms - 1450 as over_ms
from requests
where over_stage is not null
;
insert into decode_rate by name
select
    t, 'gpt-small|openai|10.0.0.' || s || ':8000|server|token' as series, 'gpt-small' as model, 'openai' as provider,
    '10.0.0.' || s || ':8000' as instance, 'server' as side, 'token' as unit,
    (60 - 4 * streams + hash(t, s) % 4) * active_stream_s as tokens, active_stream_s, streams::double as streams
from (
    select t, s, 1 + hash(t, s, 1) % 4 as streams, (1 + hash(t, s, 1) % 4) * (5.0 + hash(t, s, 2) % 5) as active_stream_s
    from range($until::timestamptz - interval 8 hour, $until::timestamptz, interval 10 second) as bin(t), range(4) as series(s)
);
insert into engine by name
select
    t, '10.0.0.' || s || ':8000' as instance, 'gpt-small' as model, 'vllm' as source, true as up,
    2.0 + hash(t, s) % 6 as running, hash(t, s, 1) % 3 as waiting, 0.3 + hash(t, s, 2) % 50 / 100 as kv_used,
    20.0 as step_ms, 800.0 as prefix_queries, 300.0 + hash(t, s, 3) % 200 as prefix_hits, 400.0 as generation_tokens,
    0.0 as preemptions
from range($until::timestamptz - interval 1 hour, $until::timestamptz, interval 1 second) as second(t), range(4) as engine(s);
insert into gpu by name
select
    t as sampled_at, '10.0.0.' || s as host, 'GPU-0' as gpu, 0.5 + hash(t, s) % 50 / 100 as util, 1980.0 as sm_mhz,
    300.0 as power_w, 400.0 as power_limit_w, epoch(t) * 300 as energy_j, 0 as throttle, true as up
from range($until::timestamptz - interval 1 hour, $until::timestamptz, interval 1 second) as second(t), range(4) as host(s)
