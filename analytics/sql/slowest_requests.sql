-- One row a request of a window, slowest first, at most $rows of them.
select
    request_id,
    started,
    route,
    outcome,
    total_ms
from requests
where started >= $from_ts::timestamptz
    and started < $to_ts::timestamptz
    and ($route::varchar is null or route = $route)
    and ($tenant::varchar is null or tenant = $tenant)
    and ($model::varchar is null or model = $model)
order by total_ms desc, request_id
limit $rows;
