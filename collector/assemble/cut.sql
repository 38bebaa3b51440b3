-- One row a model call: how its time is cut. lead, network, queue, prefill, decode and rest follow each other from us to
-- ue, in nanoseconds, and sum to len; lead and rest are network or other, as edge says.
create or replace temp table cut as
with ruled as (
    select
        i, alone, outcome, us, ue, len, q, p, d, engine_s, server_ttft_ns, ttft_ns, tried_s, tried_ns, connect_ns, backoff_ns,
        case
            when q + p + d > 0 then 'server'
            when ttft_ns is not null or stream_end in ('closed', 'cancelled', 'abandoned', 'deadline') then 'first_token'
            when outcome not in ('ok', 'stopped') then 'failed'
            else 'none'
        end as split,
        least(coalesce(connect_ns, 0), len) as connect,
        least(q + p + d, len) as served
    from call
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
        i, alone, us, ue, len, split,
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
        served - server_queue - server_prefill as server_decode
    from scaled
),
decoded as (
    select
        * exclude (server_decode),
        case split
            when 'server' then server_decode
            when 'failed' then 0
            else len - network - queue - prefill
        end as decode
    from placed
)
select
    i, us, ue, split, lead, network, queue, prefill, decode, len - lead - network - queue - prefill - decode as rest,
    if(split = 'failed' or alone, 'other', 'network') as edge
from decoded
