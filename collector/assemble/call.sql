-- One row a model call: who made it, what it was told to have used and how it ended; us, ue and len in nanoseconds.
--   alone          an engine's span that no call was found for
--   engine_s       when the engine's span began, q, p and d what it told of queue, prefill and decode
--   gpu_s          its part of the engine's time: prefill and decode over the largest batch that it was in
--   tried_s, _ns   when the first HTTP request under it began and how long they took together
create or replace temp table call as
with joined as (
    select
        serves as i,
        arg_max(i, (e, i)) filter (where role = 'engine') as engine,
        arg_max(m, (e, i)) filter (where role = 'call') as behind,  -- the call of a service behind
        list(span_id order by s, i) as span_ids
    from walk
    where serves is not null
    group by serves
),
tried as (  -- the HTTP requests under a call
    select call as i, min(s + shift) as first_s, sum(e - s)::bigint as ns
    from walk
    where role = 'network' and gone and call is not null
    group by call
),
placed as materialized (
    select
        walk.i, walk.m, walk.req, walk.trace_id, walk.span_id, walk.us, walk.ue, walk.role, walk.plan, walk.parent_failed,
        joined.behind, joined.span_ids, tried.first_s as tried_s, tried.ns as tried_ns,
        if(walk.role = 'engine', walk.i, joined.engine) as engine
    from walk
    left join joined on joined.i = walk.i
    left join tried on tried.i = walk.i
    where walk.role in ('call', 'engine') and not walk.gone
),
told as materialized (
    select
        placed.i, engine.s + engine.shift as engine_s, member.ttft_ns, member.queue_ns, member.prefill_ns, member.decode_ns,
        member.model, member.provider, member.response_id, member.input_tokens, member.output_tokens, member.cached_tokens,
        member.batch_size, member.energy_j
    from placed
    join walk as engine on engine.i = placed.engine
    join member on member.rowid = engine.m
)
select
    placed.i, placed.m, placed.req, placed.trace_id, placed.span_id, placed.us, placed.ue, placed.ue - placed.us as len,
    placed.role = 'engine' as alone, placed.engine, placed.behind,
    list_concat([placed.span_id], placed.span_ids) as spans,
    if(placed.role = 'engine', placed.us, told.engine_s) as engine_s,
    told.ttft_ns as server_ttft_ns,
    least(coalesce(told.queue_ns, 0), 1000000000000000000) as q, least(coalesce(told.prefill_ns, 0), 1000000000000000000) as p,
    least(coalesce(told.decode_ns, 0), 1000000000000000000) as d,
    told.queue_ns is not null as queue_told,
    case when told.batch_size >= 1 then (p + d) / 1e9 / told.batch_size end as gpu_s, told.energy_j,
    coalesce(mine.model, told.model) as model,
    coalesce(mine.provider, told.provider) as provider,
    coalesce(mine.response_id, told.response_id) as response_id,
    mine.stream,
    coalesce(mine.input_tokens, told.input_tokens) as input_tokens,
    coalesce(mine.output_tokens, told.output_tokens) as output_tokens,
    coalesce(mine.cached_tokens, told.cached_tokens) as cached_tokens,
    coalesce(mine.call_role, if(placed.plan, 'plan', null)) as call_role,
    mine.ttft_ns, mine.connect_ns, mine.backoff_ns, mine.stream_end, placed.tried_s, placed.tried_ns,
    case
        when mine.stream_end = 'complete' then 'ok'
        when mine.stream_end = 'deadline' then 'timeout'
        when mine.stream_end in ('closed', 'cancelled', 'abandoned') then 'stopped'
        when mine.status_code >= 500 or mine.status_code in (408, 429) then 'error'
        when mine.status_code >= 400 then 'rejected'
        when mine.stream_end = 'error' then 'error'
        when mine.status = 'OK' and mine.error is not null and mine.stream and mine.finish_reason is null and mine.output_tokens is null
        then 'stopped'  -- what it was left with is told, but called no error
        when mine.status = 'ERROR' or mine.status <> 'OK' and mine.error is not null
        then if(gave_up(mine.error) or gave_up(mine.status_message), 'stopped', 'error')
        when placed.role = 'call' and mine.ttft_ns is not null and mine.finish_reason is null and mine.output_tokens is null
            and mine.stream_end is null then if(placed.parent_failed, 'error', 'stopped')
        else 'ok'
    end as outcome
from placed
join member as mine on mine.rowid = placed.m
left join told on told.i = placed.i
