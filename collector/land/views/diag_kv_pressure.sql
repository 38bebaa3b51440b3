-- Engines whose KV cache is full, or that preempt, while requests wait.
create or replace macro found_kv_pressure(from_t, to_t, full_share := 0.95) as table
with pressed as (
    select
        five_minutes(t) as since, instance, model, count(*) as samples,
        max(kv_used) as kv_used, coalesce(sum(preemptions), 0) as preemptions, max(waiting) as waiting
    from engine
    where t >= from_t::timestamptz and t < to_t::timestamptz
        and waiting > 0 and (kv_used >= full_share or preemptions > 0)
    group by all
),
queued as (
    select five_minutes(started) as since, server_address, model, median(queue_ms) as queue_ms
    from calls
    where started >= from_t::timestamptz and started < to_t::timestamptz
    group by all
),
told as (
    select pressed.*, max(queued.queue_ms) as queue_ms
    from pressed
    left join queued on queued.since = pressed.since and (server_address = instance or queued.model = pressed.model)
    group by all
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'instance': instance, 'model': model}) as scope,
    if(preemptions > 0, 'page', 'ticket') as severity,
    to_json({'samples': samples, 'kv_used': kv_used, 'preemptions': preemptions, 'waiting': waiting, 'queue_ms': queue_ms}) as evidence,
    'give the KV cache more memory, or lower the batch limit (max_num_seqs) or max_tokens'
        || coalesce(format(': calls wait {:.0f} ms for room', queue_ms), '') as advice
from told;

-- One row a finding of the last hour: an engine whose KV cache is full, or that preempts, while requests wait.
create or replace view diag_kv_pressure as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_kv_pressure(now() - interval 1 hour, now());
