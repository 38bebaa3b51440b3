-- Who calls what; made anew at every start, so that files of earlier versions have them too. The comment above a view and behind
-- the columns of its last select become its `comment on` in the database.

-- One row a hop from a service to what it called, of so much time before the newest span: from hops_over('1 day').
create or replace macro hops_over(span) as table
with edge as (
    select least(now(), newest) - span::interval as since
    from (select max(started) as newest from spans)
),
engine as (
    select distinct service
    from spans
    where role = 'engine' and started >= (select since from edge)
),
received as (
    select *
    from spans
    where started >= (select since from edge)
),
answered as (  -- what a span called in another service
    select
        caller.trace_id, caller.span_id, caller.role, caller.service as from_service, caller.started, caller.start_ns, caller.status,
        callee.service, callee.end_ns, coalesce(caller.server_address, caller.peer) as address
    from received as callee
    join received as caller
        on caller.trace_id = callee.trace_id and caller.span_id = callee.parent_span_id and caller.service <> callee.service
    where callee.kind in ('SERVER', 'CONSUMER') or callee.role = 'engine'
),
first_answer as (
    select trace_id, span_id, any_value(service) as service, max(end_ns) as end_ns
    from answered
    group by trace_id, span_id
),
address as (  -- also under calls whose own span does not reach the other service
    select address, mode(service) as service
    from answered
    where address is not null
    group by address
),
served as (  -- the engine's span may stand in a trace of its own
    select joined.trace_id, joined.span_id, any_value(received.service) as service
    from (select trace_id, span_id, unnest(spans) as id from calls where split = 'server' and started >= (select since from edge)) as joined
    join received on received.span_id = joined.id and received.role = 'engine'
    group by all
),
client as (
    select
        trace_id, span_id, parent_span_id, service, started, start_ns, duration_ns, status, role, stage, rule, name, peer, server_address,
        operation, provider, model,
        case when contains(attrs::varchar, '"slo.net.') then attrs end as attrs
    from received
    where role in ('call', 'network') or role = 'stage' and stage in ('retrieval', 'tools') or rule like 'database%'
),
staged as (
    select trace_id, span_id, stage
    from client
    where role = 'stage'
),
hop as (
    select
        calls.trace_id, calls.span_id, calls.service, calls.started, calls.total_ms as ms, calls.outcome = 'error' as failed,
        'provider' as kind, coalesce(calls.server_address, calls.provider, 'unknown provider') as name, served.service as engine,
        client.start_ns, client.attrs
    from calls
    left join served using (trace_id, span_id)
    left join client using (trace_id, span_id)
    where calls.started >= (select since from edge)
        and calls.service not in (select service from engine)
    union all  -- HTTP clients under no call and no stage, as assembly found; all of them in traces that are no request
    select
        trace_id, span_id, service, started, duration_ns / 1e6, status = 'ERROR', 'peer', coalesce(server_address, peer), null,
        start_ns, attrs
    from client
    where role = 'network'
        and coalesce(server_address, peer) is not null
        and (
            (trace_id, span_id) in (select trace_id, span_id from stage_spans where started >= (select since from edge))
            or trace_id not in (select trace_id from requests where started >= (select since from edge) - interval 1 day)
        )
    union all  -- a step of a stage, without a peer of its own, is not a hop beside the stage around it
    select
        trace_id, span_id, service, started, duration_ns / 1e6, status = 'ERROR',
        case
            when stage = 'tools' then 'tool'
            when operation = 'embeddings' or model is not null then 'provider'
            else 'store'
        end,
        case
            when stage is distinct from 'tools' and (operation = 'embeddings' or model is not null)
            then coalesce(server_address, provider, model, 'unknown provider')
            else coalesce(peer, name)
        end,
        null, start_ns, attrs
    from client
    where (role = 'stage' or rule like 'database%')
        and (
            peer is not null
            or parent_span_id is null
            or (trace_id, parent_span_id, stage) not in (select trace_id, span_id, stage from staged)
        )
    union all  -- to another service without a client span that is a hop by itself
    select
        trace_id, span_id, from_service, started, (end_ns - start_ns) / 1e6, status = 'ERROR', 'service', service, null, start_ns, null
    from answered
    where role not in ('network', 'call', 'engine')
),
found as (
    select
        hop.trace_id, hop.span_id, hop.service, hop.started, hop.ms, hop.failed, hop.kind, hop.name, hop.start_ns, hop.attrs,
        coalesce(hop.engine, first_answer.service, address.service, if(hop.kind = 'service', hop.name, null)) as target,
        (first_answer.end_ns - hop.start_ns) / 1e6 as answered_ms
    from hop
    left join first_answer using (trace_id, span_id)
    left join address on address.address = hop.name and hop.kind in ('provider', 'peer')
    where hop.service is not null
)
select
    trace_id,
    span_id,
    service,
    started,
    case
        when target in (select service from engine) then 'engine'
        when target is not null then 'service'
        else kind
    end as kind,
    coalesce(target, name) as name,
    greatest(ms, coalesce(answered_ms, 0)) as ms,
    failed,
    try_cast(attrs->>'$."slo.net.connect"' as double) * 1e3 as connect_ms,
    try_cast(attrs->>'$."slo.net.reused"' as boolean) as reused
from found;

-- One row a service and what it calls: the last 24 hours before the newest span, held against the seven days before them.
create or replace view map_edges as
with hop as (
    select
        trace_id, ms, failed, connect_ms, reused,
        'service:' || service as from_node,
        if(kind = 'engine', 'service', kind) || ':' || name as to_node,
        started >= (select least(now(), max(started)) - interval 1 day from spans) as recent
    from hops_over('8 days')
),
asked as (
    select trace_id, count(*) as n
    from requests
    group by trace_id
),
counted as (
    select from_node, to_node, recent, trace_id, count(*) as n
    from hop
    group by from_node, to_node, recent, trace_id
),
traced as (
    select counted.from_node, counted.to_node, counted.recent, sum(counted.n) / sum(coalesce(asked.n, 1)) as calls_per_request
    from counted
    left join asked on asked.trace_id = counted.trace_id
    group by counted.from_node, counted.to_node, counted.recent
),
timed as (
    select
        from_node,
        to_node,
        recent,
        count(*) as hops,
        quantile_cont(ms, 0.5) as p50_ms,
        quantile_cont(ms, 0.95) as p95_ms,
        avg(failed::integer) as failed_share,
        median(connect_ms) as connect_ms,
        avg((not reused)::integer) as new_share
    from hop
    group by all
),
measured as (
    select
        timed.from_node, timed.to_node, timed.recent, hops, p50_ms, p95_ms, failed_share, connect_ms, new_share,
        traced.calls_per_request
    from timed
    join traced using (from_node, to_node, recent)
),
region as (
    select 'service:' || service as node, mode(region) as region
    from resources
    where service is not null
    group by service
),
compared as (
    select
        coalesce(late.from_node, early.from_node) as from_node,
        coalesce(late.to_node, early.to_node) as to_node,
        late.hops, late.p50_ms, late.p95_ms, late.failed_share, late.connect_ms, late.new_share, late.calls_per_request,
        early.hops as hops_before,
        early.calls_per_request as calls_per_request_before,
        early.p95_ms as p95_ms_before,
        (select count(*) from measured where not recent) > 0 as has_history
    from (from measured where recent) as late
    full join (from measured where not recent) as early on early.from_node = late.from_node and early.to_node = late.to_node
)
select
    compared.from_node,                 -- node of the caller, a row of map_nodes
    compared.to_node,                   -- node of what it calls
    coalesce(hops, 0) as hops,          -- how often
    calls_per_request,                  -- hops a request, of the requests with any
    p50_ms,                             -- median time of a hop
    p95_ms,                             -- 95th percentile of it
    failed_share,                       -- share that ended in an error
    connect_ms,                         -- median time to connect, one round trip of the network; null when not measured
    new_share,                          -- share that opened a new connection; null when not measured
    caller.region as from_region,       -- cloud.region of the caller
    callee.region as to_region,         -- cloud.region of what it calls, null where it sends no telemetry
    calls_per_request_before,           -- of the seven days before, null when it did not exist or nothing is stored
    p95_ms_before,                      -- of the seven days before
    case
        when not has_history then null
        when hops_before is null then 'new'
        when hops is null then 'gone'
        else nullif(concat_ws(
            ', ',
            case
                when least(hops, hops_before) < 30 then null
                when p95_ms > 1.25 * p95_ms_before then 'slower'
                when p95_ms < 0.8 * p95_ms_before then 'faster'
            end,
            case
                when calls_per_request > 1.25 * calls_per_request_before then 'more calls'
                when calls_per_request < 0.8 * calls_per_request_before then 'fewer calls'
            end
        ), '')
    end as change,                      -- new, gone, slower or faster by a quarter (30 hops on each side), more or fewer calls; null for none
from compared
left join region as caller on caller.node = compared.from_node
left join region as callee on callee.node = compared.to_node
order by compared.from_node, hops desc, compared.to_node;

-- One row a service, engine, provider, store, tool or other peer seen in the last 24 hours before the newest span, or gone since.
create or replace view map_nodes as
with edge as (
    select least(now(), max(started)) - interval 1 day as since, least(now(), max(started)) - interval 8 day as before
    from spans
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
),
service as (
    select
        'service:' || sender.service as node,
        if(engine, 'engine', 'service') as kind,
        sender.service as name,
        region.region as region,
        spans,
        coalesce(asked.requests, 0) as requests,
        asked.p95_ms as p95_ms,
        case
            when sum(spans_before) over () = 0 then null
            when spans_before = 0 then 'new'
            when spans = 0 then 'gone'
        end as change
    from sender
    left join asked using (service)
    left join region using (service)
),
silent as (  -- what only its callers tell of
    select
        to_node as node,
        split_part(to_node, ':', 1) as kind,
        substr(to_node, strpos(to_node, ':') + 1) as name,
        null as region,
        0 as spans,
        0 as requests,
        null as p95_ms,
        case when bool_and(change = 'new') then 'new' when bool_and(change = 'gone') then 'gone' end as change
    from map_edges
    where to_node not in (select node from service)
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
    change,            -- new or gone against the seven days before; null for neither, or when nothing is stored of them
from (from service union all from silent)
order by kind, name;
