-- $traces requests of 16 spans over the two days up to $until: a service with a store, a tool, another service and two calls of an
-- engine, assembled as the collector would have done.
insert into spans_open by name
with template as (
    select unnest([
        {'step': 0, 'above': null, 'name': 'POST /chat', 'kind': 'SERVER', 'service': 'shop', 'role': 'container', 'rule': 'server'},
        {'step': 1, 'above': 0, 'name': 'query docs', 'kind': 'CLIENT', 'service': 'shop', 'role': 'stage', 'rule': 'slo.stage'},
        {'step': 2, 'above': 0, 'name': 'execute_tool find', 'kind': 'INTERNAL', 'service': 'shop', 'role': 'stage', 'rule': 'slo.stage'},
        {'step': 3, 'above': 0, 'name': 'GET', 'kind': 'CLIENT', 'service': 'shop', 'role': 'network', 'rule': 'http client'},
        {'step': 4, 'above': 3, 'name': 'GET /price', 'kind': 'SERVER', 'service': 'billing', 'role': 'container', 'rule': 'server'},
        {'step': 5, 'above': 4, 'name': 'select', 'kind': 'CLIENT', 'service': 'billing', 'role': 'container', 'rule': 'database'},
        {'step': 6, 'above': 0, 'name': 'chat m', 'kind': 'CLIENT', 'service': 'shop', 'role': 'call', 'rule': 'gen_ai chat'},
        {'step': 7, 'above': 6, 'name': 'llm_request', 'kind': 'SERVER', 'service': 'vllm', 'role': 'engine', 'rule': 'vllm'},
        {'step': 8, 'above': 0, 'name': 'chat m', 'kind': 'CLIENT', 'service': 'shop', 'role': 'call', 'rule': 'gen_ai chat'},
        {'step': 9, 'above': 8, 'name': 'llm_request', 'kind': 'SERVER', 'service': 'vllm', 'role': 'engine', 'rule': 'vllm'},
        {'step': 10, 'above': 0, 'name': 'prompt build', 'kind': 'INTERNAL', 'service': 'shop', 'role': 'stage', 'rule': 'slo.stage'},
        {'step': 11, 'above': 0, 'name': 'post format', 'kind': 'INTERNAL', 'service': 'shop', 'role': 'stage', 'rule': 'slo.stage'},
        {'step': 12, 'above': 0, 'name': 'chain step', 'kind': 'INTERNAL', 'service': 'shop', 'role': 'container', 'rule': 'other'},
        {'step': 13, 'above': 12, 'name': 'chain step', 'kind': 'INTERNAL', 'service': 'shop', 'role': 'container', 'rule': 'other'},
        {'step': 14, 'above': 12, 'name': 'chain step', 'kind': 'INTERNAL', 'service': 'shop', 'role': 'container', 'rule': 'other'},
        {'step': 15, 'above': 4, 'name': 'chain step', 'kind': 'INTERNAL', 'service': 'billing', 'role': 'container', 'rule': 'other'}
    ], recursive := true)
),
timed as (
    select
        i, template.*, epoch_ns($until::timestamptz) - (172800e9 * (1 - i / $traces))::bigint + step * 1000000 as start_ns,
        (1e6 * if(step in (0, 6, 8), 500, 10) * (1 + hash(i, step) % 1000 / 500))::bigint as duration_ns
    from range($traces) as trace(i), template
)
select
    md5(i::varchar)::uuid as trace_id, hash(i, step) as span_id, if(above is null, null, hash(i, above)) as parent_span_id, name, kind,
    make_timestamptz(start_ns // 1000) as started, start_ns, start_ns + duration_ns as end_ns, duration_ns,
    service, 'bench' as scope, 'UNSET' as status, hash(service) as resource_id, role,
    case step when 1 then 'retrieval' when 2 then 'tools' when 10 then 'prompt' when 11 then 'post' end as stage, rule,
    case step when 1 then 'qdrant' when 2 then 'find' when 3 then 'billing:80' when 5 then 'postgresql' end as peer,
    case when role = 'call' then 'gpu-1:8000' when step = 3 then 'billing:80' end as server_address,
    if(role = 'call', 'openai', null) as provider, if(role = 'call', 'm', null) as model,
    if(
        role = 'call',
        '{"gen_ai.operation.name":"chat","gen_ai.request.model":"m","slo.net.connect":0.00' || hash(i) % 9
            || ',"slo.net.reused":' || if(hash(i, step, 1) % 10 = 0, 'false', 'true') || ',"n":' || i || '}',
        '{"code.function.name":"step","thread.id":' || hash(i, step) % 40 || ',"n":' || i || '}'
    ) as attrs
from timed
order by i, step;

insert into requests by name
select
    'req-' || span_id as request_id, trace_id, span_id, started, service, '/chat' as route, 'acme' as tenant, 'm' as model, 'ok' as outcome,
    duration_ns / 1e6 as total_ms, 0 as network_ms, 0 as queue_ms, 20 as retrieval_ms, 0 as prompt_ms, 0 as prefill_ms,
    total_ms - 20 as decode_ms, 0 as tools_ms, 0 as post_ms, 0 as other_ms, 2 as calls, 1 as tool_rounds, false as synthetic
from spans_open
where parent_span_id is null;

insert into calls by name
select
    call.trace_id, call.span_id, call.started, call.service, call.provider, call.model, 'ok' as outcome,
    call.duration_ns / 1e6 as total_ms, call.server_address, 'server' as split, [call.span_id, engine.span_id] as spans
from spans_open as call
join spans_open as engine on engine.trace_id = call.trace_id and engine.parent_span_id = call.span_id
where call.role = 'call';

insert into stage_spans by name
select
    'req-' || span_id as request_id, trace_id, span_id, coalesce(stage, 'other') as stage, name, peer, started, duration_ns / 1e6 as duration_ms,
    0 as offset_ms, 0 as critical_ms, 'ok' as outcome
from spans_open
where role in ('stage', 'network');

insert into resources
select distinct resource_id, service, null, null, 'eu-1', '{}'
from spans_open
