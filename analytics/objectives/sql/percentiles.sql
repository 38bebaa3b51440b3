-- One row: what the measure of one objective was in a window.
-- The words in braces are those of `slo_status`, made from conditions that were checked when the objectives were read.
select
    {place} as place,
    count(ms) as n,
    quantile_cont(ms, 0.50) as p50_ms,
    quantile_cont(ms, 0.95) as p95_ms,
    quantile_cont(ms, 0.99) as p99_ms
from (
    select ({measure}) as ms
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
        and ({slice})
)
