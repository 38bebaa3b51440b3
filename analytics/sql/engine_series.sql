-- One row an engine or GPU, measure and bucket of time: the mean of its samples, or their sum over time.
with engine_bucket as (
    select
        instance as source,
        time_bucket(to_seconds($bucket_s), t) as t,
        count(*) as n,
        avg(running) as running,
        avg(waiting) as waiting,
        max(kv_used) as kv_used,
        sum(prefix_hits) / nullif(sum(prefix_queries), 0) as prefix_hits,
        sum(preemptions) as preemptions,
        sum(generation_tokens) / $bucket_s as tokens_per_s
    from engine
    where t >= $from_ts::timestamptz
        and t < $to_ts::timestamptz
        and up
        and ($model::varchar is null or model = $model)
    group by all
),
gpu_bucket as (
    select
        host || ' ' || gpu as source,
        time_bucket(to_seconds($bucket_s), sampled_at) as t,
        count(*) as n,
        avg(util) as util,
        avg(sm_mhz) as sm_mhz,
        avg(power_w) as power_w
    from gpu
    where sampled_at >= $from_ts::timestamptz
        and sampled_at < $to_ts::timestamptz
        and up
    group by all
),
gpu_tokens_bucket as (  -- what engines that name their GPU generated there
    select host || ' ' || gpu as source, t, n, gpu_tokens_per_s
    from (
        select gpu, time_bucket(to_seconds($bucket_s), t) as t, count(*) as n, sum(generation_tokens) / $bucket_s as gpu_tokens_per_s
        from engine
        where t >= $from_ts::timestamptz
            and t < $to_ts::timestamptz
            and gpu is not null
            and ($model::varchar is null or model = $model)
        group by all
    ) as generated
    join (
        select distinct host, gpu
        from gpu
        where sampled_at >= $from_ts::timestamptz
            and sampled_at < $to_ts::timestamptz
    ) as device using (gpu)
),
counter as (
    select
        time_bucket(to_seconds($bucket_s), sampled_at) as t,
        energy_j - lag(energy_j) over (partition by host, gpu order by sampled_at) as grown_j
    from gpu
    where sampled_at >= $from_ts::timestamptz
        and sampled_at < $to_ts::timestamptz
        and energy_j is not null
),
energy_bucket as (  -- a counter that falls began anew
    select 'all GPUs' as source, t, count(*) as n, sum(grown_j) filter (where grown_j > 0) / tokens as joules_a_token
    from counter
    join (select t, sum(tokens_per_s) * $bucket_s as tokens from engine_bucket group by t) as generated using (t)
    where tokens > 0
    group by t, tokens
),
long as (
    select
        source, t, n,
        unnest(['running', 'waiting', 'kv_used', 'prefix_hits', 'preemptions', 'tokens_per_s']) as measure,
        unnest([running, waiting, kv_used, prefix_hits, preemptions, tokens_per_s]) as value
    from engine_bucket
    union all
    select source, t, n, unnest(['util', 'sm_mhz', 'power_w']), unnest([util, sm_mhz, power_w])
    from gpu_bucket
    union all
    select source, t, n, 'gpu_tokens_per_s', gpu_tokens_per_s
    from gpu_tokens_bucket
    union all
    select source, t, n, 'joules_a_token', joules_a_token
    from energy_bucket
)
select
    measure,
    source,
    t,
    t + to_seconds($bucket_s) as t2,
    value,
    n,
    strftime(t at time zone 'UTC', '%H:%M:%S') as clock,
    $from_ts::timestamptz as window_from,
    $to_ts::timestamptz as window_to
from long
where value is not null
order by measure, source, t
