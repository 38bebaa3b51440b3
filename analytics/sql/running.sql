-- One row a request that still runs and is older than its first token should be, or stalls, oldest first.
select
    request_id,
    route,
    tenant,
    service,
    stage,
    (age_ms / 1000) + epoch($now::timestamptz) - epoch(heard) as age_s,
    started,
    stalled,
    silence_ms,
    projected_ms,
    budget_ms
from live_streams
where ($route::varchar is null or route = $route)
    and ($tenant::varchar is null or tenant = $tenant)
    and ($model::varchar is null or model = $model)
order by age_s desc, request_id
