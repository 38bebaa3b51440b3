-- Who calls what; made anew at every start, so that files of earlier versions have them too. The comment above a view and behind
-- the columns of its last select become its `comment on` in the database.

-- One row a hop from a service to what it called, of so much time before the newest span: from hops_over('8 days', 200000). Where
-- the last day, or what lies before it, has more than `most` spans, one trace in two, four, ... of it is looked at: `one_in`.
create or replace macro hops_over(span, most) as table
with edge as (
    select newest - span::interval as since, newest - interval 1 day as recent_since
    from (select least(now(), max(started)) as newest from spans)
),
counted as (
    select count(*) filter (where started >= recent_since) as recent, count(*) as n
    from spans
    cross join edge
    where started >= since
),
sample as (  -- powers of two: traces of a small sample are in a larger one too
    select
        since,
        recent_since,
        pow(2, ceil(log2(greatest(recent / most, 1))))::bigint as recent_one_in,
        pow(2, ceil(log2(greatest((n - recent) / most, 1))))::bigint as before_one_in
    from counted
    cross join edge
),
picked as (  -- a join with it reaches the scan as a Bloom filter and a bound: what is not picked is not read
    select distinct trace_id, since, recent_since
    from spans
    cross join sample
    where started >= since and hash(trace_id) % if(started >= recent_since, recent_one_in, before_one_in)::ubigint = 0
),
received as (
    select
        spans.trace_id, span_id, parent_span_id, name, kind, started, start_ns, end_ns, duration_ns, service, status, role, stage, rule,
        operation, provider, model, peer, server_address
    from spans
    join picked on picked.trace_id = spans.trace_id and spans.started >= picked.since
),
connected as (  -- of the last day alone: to unpack attributes costs as much as all other columns
    select
        spans.trace_id,
        span_id,
        try_cast(attrs->>'$."slo.net.connect"' as double) * 1e3 as connect_ms,
        try_cast(attrs->>'$."slo.net.reused"' as boolean) as reused
    from spans
    join picked on picked.trace_id = spans.trace_id and spans.started >= picked.recent_since
    where contains(attrs::varchar, '"slo.net.')
),
called as (
    select calls.trace_id, span_id, service, started, total_ms, outcome, server_address, provider, split, spans
    from calls
    join picked on picked.trace_id = calls.trace_id and calls.started >= picked.since
),
engine as (
    select distinct service
    from received
    where role = 'engine'
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
joined as (
    select trace_id, span_id, unnest(spans) as id
    from called
    where split = 'server'
),
engine_span as (  -- it may stand in a trace of its own
    select span_id, service
    from received
    where role = 'engine'
    union all
    select spans.span_id, spans.service
    from spans
    join (select distinct id from joined where not exists (select 1 from received where received.span_id = joined.id)) as abroad
        on abroad.id = spans.span_id
    where role = 'engine' and started >= (select since from sample)
),
served as (
    select joined.trace_id, joined.span_id, any_value(engine_span.service) as service
    from joined
    join engine_span on engine_span.span_id = joined.id
    group by all
),
client as (
    select
        trace_id, span_id, parent_span_id, service, started, start_ns, duration_ns, status, role, stage, rule, name, peer, server_address,
        operation, provider, model
    from received
    where role in ('call', 'network') or role = 'stage' and stage in ('retrieval', 'tools') or rule like 'database%'
),
staged as (
    select distinct trace_id, span_id, stage
    from client
    where role = 'stage'
),
explained as (  -- as assembly found
    select distinct stage_spans.trace_id, span_id
    from stage_spans
    join picked on picked.trace_id = stage_spans.trace_id and stage_spans.started >= picked.since
),
requested as (
    select distinct requests.trace_id
    from requests
    join picked on picked.trace_id = requests.trace_id and requests.started >= picked.since - interval 1 day
),
hop as (
    select
        called.trace_id, called.span_id, called.service, called.started, called.total_ms as ms, called.outcome = 'error' as failed,
        'provider' as kind, coalesce(called.server_address, called.provider, 'unknown provider') as name, served.service as engine,
        client.start_ns
    from called
    left join served on served.trace_id = called.trace_id and served.span_id = called.span_id
    left join client on client.trace_id = called.trace_id and client.span_id = called.span_id
    where called.service not in (select service from engine)
    union all  -- HTTP clients under no call and no stage; all of them in traces that are no request
    select
        client.trace_id, client.span_id, service, started, duration_ns / 1e6, status = 'ERROR', 'peer', coalesce(server_address, peer), null,
        start_ns
    from client
    left join explained on explained.trace_id = client.trace_id and explained.span_id = client.span_id
    left join requested on requested.trace_id = client.trace_id
    where role = 'network'
        and coalesce(server_address, peer) is not null
        and (explained.span_id is not null or requested.trace_id is null)
    union all  -- a step of a stage, without a peer of its own, is not a hop beside the stage around it
    select
        client.trace_id, client.span_id, service, started, duration_ns / 1e6, status = 'ERROR',
        case
            when client.stage = 'tools' then 'tool'
            when operation = 'embeddings' or model is not null then 'provider'
            else 'store'
        end,
        case
            when client.stage is distinct from 'tools' and (operation = 'embeddings' or model is not null)
            then coalesce(server_address, provider, model, 'unknown provider')
            else coalesce(peer, name)
        end,
        null, start_ns
    from client
    left join staged as around
        on around.trace_id = client.trace_id and around.span_id = client.parent_span_id and around.stage = coalesce(client.stage, around.stage)
    where (role = 'stage' or rule like 'database%')
        and (peer is not null or around.span_id is null)
    union all  -- to another service without a client span that is a hop by itself
    select
        trace_id, span_id, from_service, started, (end_ns - start_ns) / 1e6, status = 'ERROR', 'service', service, null, start_ns
    from answered
    where role not in ('network', 'call', 'engine')
),
found as (
    select
        hop.trace_id, hop.span_id, hop.service, hop.started, hop.ms, hop.failed, hop.kind, hop.name,
        coalesce(hop.engine, first_answer.service, address.service, if(hop.kind = 'service', hop.name, null)) as target,
        (first_answer.end_ns - hop.start_ns) / 1e6 as answered_ms, connected.connect_ms, connected.reused
    from hop
    left join first_answer using (trace_id, span_id)
    left join connected using (trace_id, span_id)
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
    connect_ms,
    reused,
    started >= recent_since as recent,
    if(started >= recent_since, recent_one_in, before_one_in) as one_in
from found
cross join sample;

-- The table of the view `map_edges` from at most so many spans of either time: from map_edges_of(200000).
create or replace macro map_edges_of(most) as table
with hop as (
    select
        trace_id, ms, failed, connect_ms, reused, recent, one_in,
        'service:' || service as from_node,
        if(kind = 'engine', 'service', kind) || ':' || name as to_node
    from hops_over('8 days', most)
),
asked as (
    select trace_id, count(*) as n
    from requests
    where trace_id in (select trace_id from hop)
    group by trace_id
),
counted as (
    select from_node, to_node, recent, trace_id, count(*) as n
    from hop
    group by from_node, to_node, recent, trace_id
),
traced as (
    select
        counted.from_node, counted.to_node, counted.recent, count(*) as traces,
        sum(counted.n) / sum(coalesce(asked.n, 1)) as calls_per_request
    from counted
    left join asked on asked.trace_id = counted.trace_id
    group by counted.from_node, counted.to_node, counted.recent
),
timed as (
    select
        from_node,
        to_node,
        recent,
        count(*) as n,
        any_value(one_in) as one_in,
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
        timed.from_node, timed.to_node, timed.recent, timed.n, timed.one_in, p50_ms, p95_ms, failed_share, connect_ms, new_share,
        traced.calls_per_request, traced.traces,
        sum(timed.n) over (partition by timed.recent) as side_n
    from timed
    join traced using (from_node, to_node, recent)
),
side as (  -- how much of the day and of the days before was looked at
    select
        max(if(recent, side_n, null)) / max(if(recent, null, side_n)) as ratio,
        max(if(recent, one_in, null)) as one_in,
        max(if(recent, null, one_in)) as one_in_before
    from measured
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
        late.n, late.one_in, late.traces, late.p50_ms, late.p95_ms, late.failed_share, late.connect_ms, late.new_share,
        late.calls_per_request,
        early.n as n_before,
        early.calls_per_request as calls_per_request_before,
        early.p95_ms as p95_ms_before,
        side.one_in_before is not null as has_history,
        -- where not every trace was looked at, a hop is missing only where five were to be expected
        late.n is not null and (side.one_in_before = 1 or late.n / side.ratio >= 5) as new_if_alone,
        early.n is not null and (coalesce(side.one_in, 1) = 1 or early.n * side.ratio >= 5) as gone_if_alone
    from (from measured where recent) as late
    full join (from measured where not recent) as early on early.from_node = late.from_node and early.to_node = late.to_node
    cross join side
)
select
    compared.from_node, compared.to_node, coalesce(n * one_in, 0) as hops, calls_per_request, p50_ms, p95_ms, failed_share, connect_ms,
    new_share, caller.region as from_region, callee.region as to_region, calls_per_request_before, p95_ms_before,
    case
        when not has_history then null
        when n_before is null then if(new_if_alone, 'new', null)
        when n is null then 'gone'
        else nullif(concat_ws(
            ', ',
            case
                when least(n, n_before) < 30 then null
                when p95_ms > 1.25 * p95_ms_before then 'slower'
                when p95_ms < 0.8 * p95_ms_before then 'faster'
            end,
            case
                when calls_per_request > 1.25 * calls_per_request_before then 'more calls'
                when calls_per_request < 0.8 * calls_per_request_before then 'fewer calls'
            end
        ), '')
    end as change,
    coalesce(n, 0) as n, coalesce(traces, 0) as traces, one_in
from compared
left join region as caller on caller.node = compared.from_node
left join region as callee on callee.node = compared.to_node
where n is not null or gone_if_alone;

-- One row a service and what it calls: the last 24 hours before the newest span, held against the seven days before them. Of more
-- than 200,000 spans in the day, or in the days before it, one trace in two, four, ... is looked at.
create or replace view map_edges as
select
    from_node,                          -- node of the caller, a row of map_nodes
    to_node,                            -- node of what it calls
    hops,                               -- how often: n times one_in
    calls_per_request,                  -- hops a request, of the requests with any
    p50_ms,                             -- median time of a hop
    p95_ms,                             -- 95th percentile of it
    failed_share,                       -- share that ended in an error
    connect_ms,                         -- median time to connect, one round trip of the network; null when not measured
    new_share,                          -- share that opened a new connection; null when not measured
    from_region,                        -- cloud.region of the caller
    to_region,                          -- cloud.region of what it calls, null where it sends no telemetry
    calls_per_request_before,           -- of the seven days before, null when it did not exist or nothing is stored
    p95_ms_before,                      -- of the seven days before
    change,                             -- new, gone, slower or faster by a quarter (30 hops on each side), more or fewer calls; null for none
    n,                                  -- hops that the figures stand on
    traces,                             -- traces that they are of
    one_in                              -- of so many traces of the day one was looked at, 1 for all; null without a hop in it
from map_edges_of(200000)
order by from_node, hops desc, to_node;
