-- One row a bucket of time, kind of request (typical: the middle fifth by total; slowest: the top twentieth) and stage: its share.
with shown as (
    select
        *,
        time_bucket(to_seconds($bucket_s), started) as t,
        percent_rank() over (partition by time_bucket(to_seconds($bucket_s), started) order by total_ms) as place
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
),
chosen as (
    select
        t,
        case when place between 0.4 and 0.6 then 'typical' when place >= 0.95 then 'slowest' end as kind,
        unnest([network_ms, queue_ms, retrieval_ms, prompt_ms, prefill_ms, decode_ms, tools_ms, post_ms, other_ms]) as ms,
        unnest($stages::varchar[]) as stage
    from shown
    where place between 0.4 and 0.6 or place >= 0.95
)
select
    kind,
    t,
    t + to_seconds($bucket_s) as t2,
    stage,
    count(*) as n,
    avg(ms) as ms,
    sum(ms) / nullif(sum(sum(ms)) over (partition by kind, t), 0) as share,
    strftime(t at time zone 'UTC', '%H:%M:%S') as clock,
    $from_ts::timestamptz as window_from,
    $to_ts::timestamptz as window_to
from chosen
group by kind, t, stage
order by kind desc, t, list_position($stages::varchar[], stage)
