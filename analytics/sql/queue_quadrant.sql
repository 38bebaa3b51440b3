-- One row an engine and bucket of time: how busy its GPUs were, and how long requests waited in its queue, with what ran meanwhile.
with busy as (
    select host, time_bucket(to_seconds($bucket_s), sampled_at) as t, avg(util) as util
    from gpu
    where sampled_at >= $from_ts::timestamptz
        and sampled_at < $to_ts::timestamptz
        and up
    group by all
),
loaded as (  -- on the GPUs of its own host, where that has any
    select
        instance,
        if(split_part(instance, ':', 1) in (select host from busy), split_part(instance, ':', 1), null) as host,
        time_bucket(to_seconds($bucket_s), t) as t,
        avg(running) as running,
        avg(waiting) as waiting,
        max(kv_used) as kv_used
    from engine
    where t >= $from_ts::timestamptz
        and t < $to_ts::timestamptz
        and up
        and ($model::varchar is null or model = $model)
    group by all
),
used as (
    select instance, loaded.t, avg(util) as util
    from loaded
    join busy on busy.t = loaded.t and (loaded.host is null or busy.host = loaded.host)
    group by all
),
waited as (
    select
        server_address as instance,
        time_bucket(to_seconds($bucket_s), started) as t,
        count(*) as calls,
        count(queue_ms) filter (where split = 'server') as n,
        quantile_cont(queue_ms, 0.95) filter (where split = 'server') as queue_p95_ms
    from calls
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
    group by all
),
told as (  -- where no engine timed its queue, Little's law: those who wait, over those who come a second
    select
        loaded.instance,
        loaded.t,
        running,
        waiting,
        kv_used,
        util,
        coalesce(n, 0) as n,
        if(n > 0, 'timed by the engine', 'waiting over calls a second') as source,
        case
            when n > 0 then queue_p95_ms
            when waiting = 0 then 0
            else 1000 * waiting * $bucket_s / calls
        end as wait_ms
    from loaded
    join used using (instance, t)
    left join waited using (instance, t)
)
select
    (epoch(t) * 1000 + dense_rank() over (order by instance))::bigint as id,
    instance,
    t,
    t + to_seconds($bucket_s) as t2,
    util,
    running,
    waiting,
    kv_used,
    n,
    source,
    wait_ms,
    case
        when util >= 0.8 and wait_ms < 50 then 'busy, nobody waits'
        when util <= 0.2 and wait_ms >= 1000 then 'idle, many wait'
        else 'as it should be'
    end as corner,
    strftime(t at time zone 'UTC', '%H:%M:%S') as clock
from told
where wait_ms is not null
    and util is not null
order by instance, t
