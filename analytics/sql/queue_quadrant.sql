-- One row an engine and bucket of time: how busy the GPUs were, and how long requests waited in its queue, with what ran meanwhile.
with busy as (
    select time_bucket(to_seconds($bucket_s), sampled_at) as t, avg(util) as util
    from gpu
    where sampled_at >= $from_ts::timestamptz
        and sampled_at < $to_ts::timestamptz
        and up
    group by all
),
loaded as (
    select
        instance,
        time_bucket(to_seconds($bucket_s), t) as t,
        avg(running) as running,
        avg(waiting) as waiting,
        max(kv_used) as kv_used
    from engine
    where t >= $from_ts::timestamptz
        and t < $to_ts::timestamptz
        and up
    group by all
),
waited as (
    select
        server_address as instance,
        time_bucket(to_seconds($bucket_s), started) as t,
        count(queue_ms) as n,
        quantile_cont(queue_ms, 0.95) as queue_p95_ms
    from calls
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and split = 'server'
    group by all
)
select
    instance,
    t,
    util,
    running,
    waiting,
    kv_used,
    coalesce(waited.n, 0) as n,
    waited.queue_p95_ms,
    case
        when util >= 0.8 and waiting <= 1 then 'busy, nobody waits'
        when util <= 0.2 and waiting >= 5 then 'idle, many wait'
        else 'as it should be'
    end as corner,
    strftime(t at time zone 'UTC', '%H:%M:%S') as clock
from loaded
join busy using (t)
left join waited using (instance, t)
order by instance, t
