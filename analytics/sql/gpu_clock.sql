-- One row a GPU and bucket of time: its lowest and mean clock, its power, and in words what held it back; the most throttled first.
with bucket as (
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
        nullif(concat_ws(  -- NVML's clock event bits; idle, set clocks and displays hold nothing back
            ', ',
            case when (throttle & 4) <> 0 then 'power cap' end,
            case when (throttle & 8) <> 0 then 'hardware slowdown' end,
            case when (throttle & 16) <> 0 then 'sync boost' end,
            case when (throttle & 32) <> 0 then 'heat (software)' end,
            case when (throttle & 64) <> 0 then 'heat (hardware)' end,
            case when (throttle & 128) <> 0 then 'power brake' end
        ), '') as reasons,
        count(*) filter (where (throttle & 252) <> 0) over (partition by gpu) as held_back
    from bucket
),
sagging as (
    select moment.t, min(alerts.alert_id) as alert_id
    from (select distinct t, t2 from bucket) as moment
    join alerts
        on alerts.opened < moment.t2
        and (alerts.closed is null or alerts.closed > moment.t)
    where alerts.kind = 'sag'
    group by moment.t
)
select
    told.* exclude (held_back),
    sagging.alert_id,
    if(reasons is distinct from lag(reasons) over (partition by gpu order by t), reasons, null) as spell,
    strftime(t at time zone 'UTC', '%H:%M:%S') as clock,
    $from_ts::timestamptz as window_from,
    $to_ts::timestamptz as window_to
from told
left join sagging using (t)
order by held_back desc, gpu, t
