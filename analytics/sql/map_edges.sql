-- One row a service and what it calls, over the last 24 hours before the newest span, the slowest first, with the caller's busiest route.
with busiest as (
    select service, mode(route) as route
    from requests
    where started >= (select max(started) - interval 1 day from requests)
        and not synthetic
    group by service
)
select
    replace(from_node, 'service:', '') as caller,
    to_node as callee,
    hops as n,
    calls_per_request,
    p50_ms,
    p95_ms,
    failed_share,
    connect_ms,
    new_share,
    from_region,
    to_region,
    calls_per_request_before,
    p95_ms_before,
    change,
    busiest.route
from map_edges
left join busiest on 'service:' || busiest.service = from_node
order by p95_ms desc nulls last, caller, callee
