-- One row a model call: how its time is cut. lead, network, queue, prefill, decode and rest follow each other from us to
-- ue, in nanoseconds, and sum to len; lead and rest are network or other, as edge says.
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
covered as (  -- what the engine's parts cover: its stages, nested and overlapping
    select
        walk.engine, node.stage, node.s, node.e,
        max(node.e) over (
            partition by walk.engine, node.stage order by node.s, node.e rows between unbounded preceding and 1 preceding
        ) as before
    from walk
    join node on node.i = walk.i
    where node.role = 'slice' and walk.engine is not null
),
sliced as (
    select
        engine as i,
        sum(greatest(e - greatest(s, coalesce(before, s)), 0)) filter (where stage = 'queue')::bigint as queue_ns,
        sum(greatest(e - greatest(s, coalesce(before, s)), 0)) filter (where stage = 'prefill')::bigint as prefill_ns,
        max(e) filter (where stage = 'decode') - min(s) filter (where stage = 'decode') as decode_ns
    from covered
    group by engine
),
ended as (  -- what a later record told of a streamed call
    select
        tail.call as i, max(member.input_tokens) as input_tokens, max(member.output_tokens) as output_tokens,
        max(member.cached_tokens) as cached_tokens, list(node.span_id order by node.s, node.i) as span_ids
    from tail
    join node on node.i = tail.i
    join member on member.rowid = node.m
    group by tail.call
),
tried as (  -- the HTTP requests under a call
    select call as i, min(s + shift) as first_s, sum(e - s)::bigint as ns
    from walk
    where role = 'network' and gone and call is not null
    group by call
),
outside as (  -- gaps are filled from the nearest; one that stands for several attempts knows none of them
    select
        twin.inner_call as i, list(node.span_id order by twin.level, node.i) as span_ids,
        arg_min(member.model, twin.level) as model, arg_min(member.provider, twin.level) as provider,
        arg_min(member.response_id, twin.level) filter (where twin.alone) as response_id,
        arg_min(member.stream, twin.level) filter (where twin.alone) as stream,
        arg_min(member.input_tokens, twin.level) filter (where twin.alone) as input_tokens,
        arg_min(member.output_tokens, twin.level) filter (where twin.alone) as output_tokens,
        arg_min(member.cached_tokens, twin.level) filter (where twin.alone) as cached_tokens,
        arg_min(member.call_role, twin.level) as call_role
    from twin
    join node on node.i = twin.outer_call
    join member on member.rowid = node.m
    group by twin.inner_call
),
seen as (
    select
        walk.i, walk.m, walk.req, walk.trace_id, walk.span_id, walk.us, walk.ue, walk.ue - walk.us as len, walk.service,
        walk.role = 'engine' as alone,
        list_concat([walk.span_id], joined.span_ids, outside.span_ids, ended.span_ids) as spans,
        case when walk.role = 'engine' then walk.us else engine.s + engine.shift end as engine_s,
        coalesce(told.ttft_ns, behind.ttft_ns) as server_ttft_ns,
        coalesce(sliced.queue_ns, told.queue_ns, 0) as q,
        coalesce(
            sliced.prefill_ns,
            -- SGLang's own figure begins before the wait
            if(told.queue_ns is null, greatest(told.prefill_ns - coalesce(sliced.queue_ns, 0), 0), told.prefill_ns),
            0
        ) as p,
        coalesce(sliced.decode_ns, told.decode_ns, 0) as d,
        coalesce(mine.model, outside.model, told.model, behind.model) as model,
        coalesce(mine.provider, outside.provider, told.provider, behind.provider) as provider,
        coalesce(mine.response_id, outside.response_id, told.response_id, behind.response_id) as response_id,
        coalesce(mine.stream, outside.stream) as stream,
        coalesce(mine.input_tokens, ended.input_tokens, outside.input_tokens, told.input_tokens, behind.input_tokens) as input_tokens,
        coalesce(
            mine.output_tokens, ended.output_tokens, told.output_tokens, behind.output_tokens,
            -- of an unfinished stream the outer span may hold a placeholder of one
            case
                when mine.status = 'ERROR' then null
                when coalesce(mine.stream, mine.ttft_ns is not null) and mine.finish_reason is null
                    and mine.stream_end is distinct from 'complete' then null
                else outside.output_tokens
            end
        ) as output_tokens,
        coalesce(mine.cached_tokens, ended.cached_tokens, outside.cached_tokens, told.cached_tokens, behind.cached_tokens) as cached_tokens,
        coalesce(mine.call_role, outside.call_role, if(walk.plan, 'plan', null)) as call_role, mine.hedged, mine.fallback,
        mine.ttft_ns, mine.connect_ns, mine.backoff_ns, mine.stream_end, mine.final_ns,
        tried.first_s as tried_s, tried.ns as tried_ns,
        case
            when mine.stream_end = 'complete' then 'ok'
            when mine.stream_end = 'deadline' then 'timeout'
            when mine.stream_end in ('closed', 'cancelled', 'abandoned') then 'stopped'
            when mine.status_code >= 500 or mine.status_code in (408, 429) then 'error'
            when mine.status_code >= 400 then 'rejected'
            when mine.stream_end = 'error' then 'error'
            when mine.status = 'ERROR' or mine.error is not null
            then if(gave_up(mine.error) or gave_up(mine.status_message), 'stopped', 'error')
            when walk.role = 'call' and mine.ttft_ns is not null and mine.finish_reason is null and mine.output_tokens is null
                and mine.stream_end is null then if(above.status = 'ERROR', 'error', 'stopped')
            else 'ok'
        end as outcome
    from walk
    join member as mine on mine.rowid = walk.m
    left join joined on joined.i = walk.i
    left join walk as engine on engine.i = coalesce(joined.engine, if(walk.role = 'engine', walk.i, null))
    left join sliced on sliced.i = engine.i
    left join member as told on told.rowid = engine.m
    left join member as behind on behind.rowid = joined.behind
    left join node as parent on parent.i = walk.p
    left join member as above on above.rowid = parent.m
    left join tried on tried.i = walk.i
    left join outside on outside.i = walk.i
    left join ended on ended.i = walk.i
    where walk.role in ('call', 'engine') and not walk.gone
),
ruled as (
    select
        *,
        case
            when q + p + d > 0 then 'server'
            when ttft_ns is not null or stream_end in ('closed', 'cancelled', 'abandoned', 'deadline') then 'first_token'
            when outcome not in ('ok', 'stopped') then 'failed'
            else 'none'
        end as split,
        least(coalesce(connect_ns, 0), len) as connect,
        case when q + p + d > len then len else q + p + d end as served
    from seen
),
scaled as (
    select
        *,
        if(served < q + p + d, (q::hugeint * len // (q + p + d))::bigint, q) as server_queue,
        if(served < q + p + d, (p::hugeint * len // (q + p + d))::bigint, p) as server_prefill,
        len - served as spare,
        least(coalesce(backoff_ns, 0), len - connect) as backoff,
        greatest(least(coalesce(tried_s, us) - us, len), 0) as failed_at
    from ruled
),
placed as (
    select
        *,
        case split
            -- Where the engine's span lies in the call says how much of the network came before it, and its first token
            -- how much its front end took; of a call that was left, all of it, since the engine ends with the client.
            when 'server' then case
                when outcome = 'stopped' then spare
                when engine_s between us and ue
                then least(spare, engine_s - us + greatest(coalesce(server_ttft_ns, 0) - q - p, 0))
                else spare // 2
            end
            when 'failed' then failed_at
            else 0
        end as lead,
        case split
            when 'server' then 0
            when 'failed' then least(coalesce(connect_ns, tried_ns, 0), len - failed_at)
            else connect
        end as network,
        case split when 'server' then server_queue when 'failed' then 0 else backoff end as queue,
        case split
            when 'server' then server_prefill
            when 'first_token' then greatest(least(coalesce(ttft_ns, len), len) - connect - backoff, 0)
            else 0
        end as prefill,
        case split when 'server' then served - server_queue - server_prefill else 0 end as server_decode
    from scaled
),
decoded as (
    select
        *,
        case split
            when 'server' then server_decode
            when 'failed' then 0
            else len - network - queue - prefill
        end as decode,
        if(split = 'failed' or alone, 'other', 'network') as edge
    from placed
)
select * exclude (connect, served, spare, backoff, failed_at, server_queue, server_prefill, server_decode, q, p, d),
    len - lead - network - queue - prefill - decode as rest
from decoded
