-- One request an event of the simulation.
insert into requests by name
select
    'r' || row_number() over () as request_id, uuid() as trace_id, row_number() over () as span_id, started, '/chat' as route, tenant,
    if(bad, 'error', 'ok') as outcome, 1.0 as total_ms, 1.0 as other_ms, 0 as calls, 0 as tool_rounds, false as synthetic,
    0.0 as network_ms, 0.0 as queue_ms, 0.0 as retrieval_ms, 0.0 as prompt_ms, 0.0 as prefill_ms, 0.0 as decode_ms,
    0.0 as tools_ms, 0.0 as post_ms
from events
