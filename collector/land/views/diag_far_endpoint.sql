-- Peers to which a round trip takes more than 50 ms, or that answer from another cloud.region than the caller's. A connect is one
-- round trip, TLS one or two: behind a proxy or a sidecar, which connects at once, TLS alone goes all the way.
create or replace macro found_far_endpoint(from_t, to_t, far_ms := 50, fewest := 5) as table
with hop as (
    select trace_id, span_id, service, resource_id, coalesce(server_address, peer) as peer, five_minutes(started) as since,
        greatest(
            try_cast(attrs->>'$."slo.net.connect"' as double), try_cast(attrs->>'$."slo.net.tls"' as double) / 2
        ) * 1e3 as round_trip_ms
    from spans
    where started >= from_t::timestamptz and started < to_t::timestamptz and role in ('call', 'network')
),
answer as (  -- nobody without a region: where services tell none, no span is looked at
    select spans.trace_id, spans.parent_span_id, spans.service, callee.region
    from spans
    join resources as callee on callee.resource_id = spans.resource_id and callee.region is not null
    where spans.started >= from_t::timestamptz and spans.started < to_t::timestamptz + interval 5 minutes
),
answered as (
    select hop.service, hop.peer, hop.since, hop.round_trip_ms, caller.region as from_region, answer.region as to_region
    from hop
    left join answer on answer.trace_id = hop.trace_id and answer.parent_span_id = hop.span_id and answer.service <> hop.service
    left join resources as caller on caller.resource_id = hop.resource_id
),
far as (
    select
        service, peer, since, from_region, to_region, count(*) as n, count(round_trip_ms) as connects, median(round_trip_ms) as round_trip_ms
    from answered
    group by all
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'peer': peer}) as scope,
    'ticket' as severity,
    to_json({'n': n, 'round_trip_ms': round_trip_ms, 'from_region': from_region, 'to_region': to_region}) as evidence,
    format('call an endpoint of {} in the region of {}', peer, service)
        || coalesce(format(': each round trip takes {:.0f} ms, and a new connection two or three', round_trip_ms), '') as advice
from far
where connects >= fewest and round_trip_ms > far_ms or n >= fewest and from_region <> to_region;

-- One row a finding of the last hour: a peer that is far away.
create or replace view diag_far_endpoint as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_far_endpoint(now() - interval 1 hour, now());
