-- Routes whose requests in flight differ by a fifth from rate x stay for 5 minutes: spans lost, streams leaked, or a clock is wrong.
create or replace macro found_littles_law(from_t, to_t, tolerance := 0.2, fewest := 30) as table
with gauge as (  -- a mean a process and route, all of them together; 2 minutes later, when what was in flight has landed
    select service, route, since, sum(in_flight) as in_flight, min(samples) as samples
    from (
        select
            resources.service, metrics.attrs->>'$.route' as route, five_minutes(t) as since,
            sum(value) / count(distinct t) as in_flight, count(distinct t) as samples
        from metrics
        left join resources using (resource_id)
        where name = 'slo.requests.active' and t >= five_minutes(from_t::timestamptz) and t < five_minutes(to_t::timestamptz - interval 2 minutes)
        group by resource_id, resources.service, route, since
    )
    group by all
),
stay as (  -- time in the five minutes, of requests that began in it or in those before
    select
        service, route, since,
        sum(greatest(0, epoch(least(since + interval 5 minutes, started + to_microseconds((total_ms * 1e3)::bigint)))
            - epoch(greatest(since, started)))) as spent_s
    from (
        select service, route, started, total_ms, unnest([five_minutes(started), five_minutes(started) + interval 5 minutes]) as since
        from requests
        where started >= from_t::timestamptz - interval 5 minutes and started < to_t::timestamptz
    )
    group by all
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'ticket' as severity,
    to_json({'in_flight': in_flight, 'rate_times_stay': coalesce(spent_s, 0) / 300}) as evidence,
    if(
        in_flight > coalesce(spent_s, 0) / 300,
        format('close the streams of {}, and look for lost spans with tailbudget doctor', route),
        format('look at the clocks of {} with tailbudget doctor: stages are longer than requests were in flight', route)
    ) as advice
from gauge
left join stay using (service, route, since)
where samples >= fewest and abs(in_flight - coalesce(spent_s, 0) / 300) / greatest(in_flight, 1) > tolerance;

-- One row a finding of the last hour: a route whose requests in flight contradict its spans.
create or replace view diag_littles_law as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_littles_law(now() - interval 1 hour, now());
