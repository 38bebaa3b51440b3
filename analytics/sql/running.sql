-- One row a request that still runs and is older than its first token should be, oldest first.
select
    request_id,
    route,
    tenant,
    service,
    stage,
    age_s + epoch($now::timestamptz) - epoch(heard) as age_s,
    started
from live
where outcome is null
    and ($route::varchar is null or route = $route)
    and ($tenant::varchar is null or tenant = $tenant)
order by age_s desc, request_id
