-- One row a service and what it calls, over the last 24 hours before the newest span, the slowest first.
select
    replace(from_node, 'service:', '') as caller,
    to_node as callee,
    n,
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
    hops,
    traces,
    one_in
from map_edges
order by p95_ms desc nulls last, caller, callee
