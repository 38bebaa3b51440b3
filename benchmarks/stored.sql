-- Writes $spans spans that end at $until_us, 14 a request, a request every 6 ms, and the requests and calls that they became.
insert into spans_open by name
select
    md5((i // 14)::varchar)::uuid as trace_id, hash(i) as span_id, if(i % 14 > 0, hash(i // 14 * 14), null) as parent_span_id,
    case i % 14 when 0 then 'POST /chat' when 7 then 'chat m' else 'work' end as name, 'INTERNAL' as kind,
    make_timestamptz($until_us - ($spans - i) // 14 * 6000) as started,
    ($until_us - ($spans - i) // 14 * 6000) * 1000 as start_ns, start_ns + 1000000000 as end_ns, 1000000000 as duration_ns,
    'stored' as service, 'test' as scope, 'UNSET' as status, 1 as resource_id, if(i % 14 = 7, 'call', 'container') as role,
    'none' as rule, if(i % 14 = 0, '/chat', null) as request, if(i % 14 = 7, 'chatcmpl-' || (i // 14), null) as response_id,
    '{"slo.stage": "post"}'::json as attrs
from range($spans) as numbers(i);

insert into requests by name
select
    lower(printf('%016x', span_id)) as request_id, trace_id, span_id, started, service, '/chat' as route, 'ok' as outcome,
    1000 as total_ms, 0 as network_ms, 0 as queue_ms, 150 as retrieval_ms, 10 as prompt_ms, 150 as prefill_ms, 500 as decode_ms,
    9 as tools_ms, 40 as post_ms, 141 as other_ms, 1 as calls, 1 as tool_rounds, 'slo' as root_kind, false as synthetic
from spans
where request is not null;

insert into calls by name
select
    trace_id, span_id, started, service, 'ok' as outcome, 770 as total_ms, response_id, 'server' as split, [span_id] as spans
from spans
where role = 'call'
