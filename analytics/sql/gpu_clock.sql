-- One row a GPU and bucket of time: its lowest and mean clock, its power, and in words what held it back; the most throttled first.
with reason(place, bit, words) as (  -- NVML's clock event bits; idle, set clocks and displays hold nothing back
    values
        (1, 4, 'power cap'), (2, 8, 'hardware slowdown'), (3, 16, 'sync boost'), (4, 32, 'heat (software)'),
        (5, 64, 'heat (hardware)'), (6, 128, 'power brake')
),
bucket as (
    select
        time_bucket(to_seconds($bucket_s), sampled_at) as t,
        time_bucket(to_seconds($bucket_s), sampled_at) + to_seconds($bucket_s) as t2,
        host || ' ' || gpu as gpu,
        min(sm_mhz) as sm_min_mhz,
        avg(sm_mhz) as sm_mean_mhz,
        avg(power_w) as power_w,
        max(power_limit_w) as power_limit_w,
        coalesce(bit_or(throttle), 0) as throttle,
        count(*) as n
    from gpu
    where sampled_at >= $from_ts::timestamptz
        and sampled_at < $to_ts::timestamptz
    group by all
),
told as (
    select
        bucket.*,
        (throttle & 252) <> 0 as throttled,
        (select string_agg(words, ', ' order by place) from reason where throttle & bit <> 0) as reasons
    from bucket
),
sagging as (
    select told.*, sag.alert_id
    from told
    left join lateral (
        select min(alert_id) as alert_id
        from alerts
        where kind = 'sag'
            and opened < told.t2
            and (closed is null or closed > told.t)
    ) as sag on true
)
select
    *,
    if(reasons is distinct from lag(reasons) over (partition by gpu order by t), reasons, null) as spell,
    strftime(t at time zone 'UTC', '%H:%M:%S') as clock,
    $from_ts::timestamptz as window_from,
    $to_ts::timestamptz as window_to
from sagging
order by count(*) filter (where throttled) over (partition by gpu) desc, gpu, t
