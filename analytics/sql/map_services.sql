-- One row a service or engine that sent spans in the last 24 hours before the newest span, or in the week before them.
select
    kind,
    name,
    region,
    requests,
    p95_ms,
    spans,
    change
from map_services
order by kind, name
