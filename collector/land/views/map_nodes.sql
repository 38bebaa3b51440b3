-- Who sends and who is called; of the views of `map.sql`, made before these.

-- One row a service or engine that sent spans in the last 24 hours before the newest one, or in the seven days before.
create or replace view map_services as
with edge as (
    select newest - interval 1 day as since, newest - interval 8 day as before
    from (select least(now(), max(started)) as newest from spans)
),
sender as (
    select
        service,
        bool_or(role = 'engine') as engine,
        count(*) filter (where started >= (select since from edge)) as spans,
        count(*) filter (where started < (select since from edge)) as spans_before
    from spans
    where service is not null and started >= (select before from edge)
    group by service
),
asked as (
    select service, count(*) as requests, quantile_cont(total_ms, 0.95) as p95_ms
    from requests
    where started >= (select since from edge) and not synthetic
    group by service
),
region as (
    select service, mode(region) as region
    from resources
    group by service
)
select
    'service:' || sender.service as node, -- its key in map_edges
    if(engine, 'engine', 'service') as kind, -- service or engine
    sender.service as name,            -- service.name
    region.region as region,           -- cloud.region that it sends most, null when none
    spans,                             -- spans that it sent
    coalesce(asked.requests, 0) as requests, -- requests of users that it served
    asked.p95_ms as p95_ms,            -- 95th percentile of their total time, null without any
    case
        when sum(spans_before) over () = 0 then null
        when spans_before = 0 then 'new'
        when spans = 0 then 'gone'
    end as change                      -- new or gone against the seven days before; null for neither, or when nothing is stored of them
from sender
left join asked using (service)
left join region using (service)
order by kind, name;

-- One row a service, engine, provider, store, tool or other peer seen in the last 24 hours before the newest span, or gone since.
create or replace view map_nodes as
with silent as (  -- what only its callers tell of
    select
        to_node as node,
        split_part(to_node, ':', 1) as kind,
        substr(to_node, strpos(to_node, ':') + 1) as name,
        null as region,
        0 as spans,
        0 as requests,
        null as p95_ms,
        case
            when bool_and(change is not distinct from 'new') then 'new'
            when bool_and(change is not distinct from 'gone') then 'gone'
        end as change
    from map_edges
    where to_node not in (select node from map_services)
    group by to_node
)
select
    node,              -- its key in map_edges
    kind,              -- service, engine, provider, store, tool or peer
    name,              -- service.name, address, or the name that its callers use
    region,            -- cloud.region that it sends most, null when none
    spans,             -- spans that it sent
    requests,          -- requests of users that it served
    p95_ms,            -- 95th percentile of their total time, null without any
    change             -- new or gone against the seven days before; null for neither, or when nothing is stored of them
from (from map_services union all from silent)
order by kind, name;
