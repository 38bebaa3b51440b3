-- One row a cell of time x total latency that holds requests: eight latency steps a decade (each 1.33 times the last).
with shown as (
    select
        time_bucket(to_seconds($bucket_s), started) as t,
        floor(log10(greatest(total_ms, 1)) * 8)::bigint as step,
        budget_ms
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
),
line as (
    select mode(budget_ms) as budget_ms
    from shown
)
select
    t,
    t + to_seconds($bucket_s) as t2,
    pow(10, step / 8) as lo_ms,
    pow(10, (step + 1) / 8) as hi_ms,
    count(*) as n,
    any_value(line.budget_ms) as budget_ms,
    strftime(t at time zone 'UTC', '%H:%M:%S') as clock,
    $from_ts::timestamptz as window_from,
    $to_ts::timestamptz as window_to
from shown, line
group by t, step
order by t, step;
