-- One row a service, engine, provider, store, tool or other peer of the last 24 hours before the newest span.
select
    kind,
    name,
    region,
    requests,
    p95_ms,
    spans,
    change
from map_nodes
order by kind, name
