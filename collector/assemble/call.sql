-- One row a model call: how its time is cut. lead, network, queue, prefill, decode and rest follow each other from us to
-- ue, in nanoseconds, and sum to len; lead and rest are network or other, as edge says.
create or replace temp table call as
with joined as (
    select engine_of as i, arg_max(i, (e, i)) as engine
    from walk
    where engine_of is not null
    group by engine_of
),
tried as (  -- the HTTP requests under a call
    select call as i, min(s + shift) as first_s, sum(e - s)::bigint as ns
    from walk
    where role = 'network' and gone and call is not null
    group by call
),
outer_call as (
    select twin.inner_call as i, any_value(twin.inner_calls = 1) as only_one, any_value(member.span_id) as span_id, any_value(member.model) as model,
        any_value(member.provider) as provider, any_value(member.response_id) as response_id, any_value(member.stream) as stream,
        any_value(member.input_tokens) as input_tokens, any_value(member.output_tokens) as output_tokens,
        any_value(member.cached_tokens) as cached_tokens
    from twin
    join node on node.i = twin.outer_call
    join member on member.rowid = node.m
    group by twin.inner_call
),
seen as (
    select
        walk.i, walk.m, walk.req, walk.trace_id, walk.span_id, walk.us, walk.ue, walk.ue - walk.us as len, walk.service,
        walk.role = 'engine' as alone,
        engine.span_id as engine_span_id, outer_call.span_id as outer_span_id,
        case when walk.role = 'engine' then walk.us else engine.s + engine.shift end as engine_s,
        told.ttft_ns as server_ttft_ns,
        coalesce(told.queue_ns, 0) as q, coalesce(told.prefill_ns, 0) as p, coalesce(told.decode_ns, 0) as d,
        coalesce(mine.model, outer_call.model, told.model) as model,
        coalesce(mine.provider, outer_call.provider, told.provider) as provider,
        coalesce(mine.response_id, case when outer_call.only_one then outer_call.response_id end, told.response_id) as response_id,
        coalesce(mine.stream, case when outer_call.only_one then outer_call.stream end) as stream,
        coalesce(mine.input_tokens, case when outer_call.only_one then outer_call.input_tokens end, told.input_tokens) as input_tokens,
        coalesce(
            mine.output_tokens,
            told.output_tokens,
            -- of an unfinished stream the outer span may hold a placeholder of one
            case when outer_call.only_one and mine.ttft_ns is null then outer_call.output_tokens end
        ) as output_tokens,
        coalesce(mine.cached_tokens, case when outer_call.only_one then outer_call.cached_tokens end, told.cached_tokens) as cached_tokens,
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
    left join walk as engine on engine.i = joined.engine
    left join member as told on told.rowid = coalesce(engine.m, case when walk.role = 'engine' then walk.m end)
    left join node as parent on parent.i = walk.p
    left join member as above on above.rowid = parent.m
    left join tried on tried.i = walk.i
    left join outer_call on outer_call.i = walk.i
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
