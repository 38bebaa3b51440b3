-- Routes whose requests in flight differ by a fifth from rate x stay: spans lost, streams leaked, or a clock is wrong. Both are of the
-- time in which processes told what is in flight: one that began a minute ago has not been idle for four. It is told every few
-- seconds, so that a mean of it is known to within its standard error alone: a difference of less than three may be chance.
create or replace macro found_littles_law(from_t, to_t, tolerance := 0.2, fewest := 30, errors := 3) as table
with process as (  -- 2 minutes later, when what was in flight has landed
    select
        resources.service, metrics.attrs->>'$.route' as route, five_minutes(t) as since, min(t) as first_t, max(t) as last_t,
        sum(value) / count(distinct t) as in_flight, coalesce(var_samp(value), 0) / count(distinct t) as square_error,
        count(distinct t) as samples
    from metrics
    left join resources using (resource_id)
    where name = 'slo.requests.active' and t >= five_minutes(from_t::timestamptz) and t < five_minutes(to_t::timestamptz - interval 2 minutes)
    group by resource_id, resources.service, route, since
),
observed as (
    select
        service, route, since, min(first_t) as first_t, max(last_t) as last_t,
        sum(in_flight * (epoch(last_t) - epoch(first_t))) as in_flight_s,
        sqrt(sum(square_error * pow(epoch(last_t) - epoch(first_t), 2))) as error_s
    from process
    group by all
    having max(samples) >= fewest and max(last_t) > min(first_t)
),
stay as (  -- seconds that requests spent in that time, of those that began in it or in the five minutes before
    select
        service, route, since,
        sum(coalesce(weight, 1) * greatest(0, epoch(least(last_t, started + to_microseconds((total_ms * 1e3)::bigint)))
            - epoch(greatest(first_t, started)))) as spent_s
    from observed
    join requests using (service, route)
    where started >= since - interval 5 minutes and started < last_t
    group by all
),
compared as (
    select
        service, route, since, in_flight_s / (epoch(last_t) - epoch(first_t)) as in_flight,
        coalesce(spent_s, 0) / (epoch(last_t) - epoch(first_t)) as rate_times_stay,
        error_s / (epoch(last_t) - epoch(first_t)) as standard_error
    from observed
    left join stay using (service, route, since)
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'ticket' as severity,
    to_json({'in_flight': in_flight, 'rate_times_stay': rate_times_stay}) as evidence,
    if(
        in_flight > rate_times_stay,
        format('close the streams of {}, and look for lost spans with tailbudget doctor', route),
        format('look at the clocks of {} with tailbudget doctor: stages are longer than requests were in flight', route)
    ) as advice
from compared
where abs(in_flight - rate_times_stay) > greatest(tolerance * greatest(in_flight, 1), errors * standard_error);

-- One row a finding of the last hour: a route whose requests in flight contradict its spans.
create or replace view diag_littles_law as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_littles_law(now() - interval 1 hour, now());
