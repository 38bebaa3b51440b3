-- One row a bucket of time: percentiles of the requests that started in it.
with shown as (
    select time_bucket(to_seconds($bucket_s), started) as t, total_ms, budget_ms
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
)
select
    t,
    t + to_seconds($bucket_s) as t2,
    count(*) as n,
    quantile_cont(total_ms, 0.50) as p50_ms,
    quantile_cont(total_ms, 0.95) as p95_ms,
    quantile_cont(total_ms, 0.99) as p99_ms,
    (select mode(budget_ms) from shown) as budget_ms,
    strftime(t at time zone 'UTC', '%H:%M:%S') as clock,
    $from_ts::timestamptz as window_from,
    $to_ts::timestamptz as window_to
from shown
group by t
order by t
