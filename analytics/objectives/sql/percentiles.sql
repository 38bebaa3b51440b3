-- One row: what the measure of one objective was in a window, and what its requests have in common.
-- The words in braces are those of `slo_status`, made from conditions that were checked when the objectives were read.
select
    {place} as place,
    count(ms) as n,
    quantile_cont(ms, 0.50) as p50_ms,
    quantile_cont(ms, 0.95) as p95_ms,
    quantile_cont(ms, 0.99) as p99_ms,
    if(min(route) = max(route), min(route), null) as route,
    if(min(tenant) = max(tenant), min(tenant), null) as tenant,
    if(min(model) = max(model), min(model), null) as model
from (
    select ({measure}) as ms, route, tenant, model
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
        and ({slice})
)
