-- One row: number, mean and percentiles of a measure of the requests of a window, from log buckets: within 1 % of the value
-- of the same rank. What is older than 26 hours is counted by the hour, so that such a window takes whole hours.
with bucketed as (
    select bucket, sum(n)::bigint as n, sum(total_ms)::double as total_ms
    from rollup_minute
    where minute >= $from_ts::timestamptz
        and minute < $to_ts::timestamptz
        and measure = $measure
        and ($service::varchar is null or service = $service)
        and ($route::varchar is null or route = $route)
        and ($model::varchar is null or model = $model)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($outcome::varchar is null or outcome = $outcome)
    group by bucket
    having sum(n) > 0
),
ranked as (
    select
        *,
        sum(n) over (order by bucket) as upto,
        sum(n) over () as of_all,
        case when bucket = -32768 then 0 else 2 * pow(1.02, bucket) / 2.02 end as ms
    from bucketed
)
select
    coalesce(sum(n), 0)::bigint as n,
    sum(total_ms) / sum(n) as mean_ms,
    min(ms) filter (where upto >= 0.50 * of_all) as p50_ms,
    min(ms) filter (where upto >= 0.95 * of_all) as p95_ms,
    min(ms) filter (where upto >= 0.99 * of_all) as p99_ms
from ranked;
