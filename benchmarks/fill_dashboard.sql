-- A day of $n requests up to $until with four stages each, one in twenty over its budget, and the token rate of one series.
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
