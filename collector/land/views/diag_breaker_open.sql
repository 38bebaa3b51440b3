-- Circuit breakers that were open; a page when one was for more than 60 s. `errors` are those of the service in the minutes before.
create or replace macro found_breaker_open(from_t, to_t, page_s := 60) as table
with state as (
    select
        resources.service, metrics.attrs->>'$."slo.guard"' as breaker, t, value,
        coalesce(lead(t) over (partition by resource_id, metrics.attrs order by t), t) as until_t
    from metrics
    left join resources using (resource_id)
    where name = 'slo.breaker.state' and t >= from_t::timestamptz and t < to_t::timestamptz
),
opened as (
    select
        service, breaker, five_minutes(t) as since, min(t) as first_t, max(t) as last_t,
        sum(epoch(until_t) - epoch(t)) as open_s
    from state
    where value = 2
    group by all
),
failed as (
    select
        opened.service, breaker, since,
        list_sort(list(distinct coalesce(error, status_message, name))) as errors,
        median(duration_ns / 1e6) as failed_ms
    from opened
    join spans
        on spans.service is not distinct from opened.service and spans.status = 'ERROR'
        and spans.started >= first_t - interval 5 minutes and spans.started <= first_t
        and coalesce(error, '') not like '%CircuitOpenError'
    where spans.started >= from_t::timestamptz - interval 5 minutes and spans.started < to_t::timestamptz
    group by all
)
select
    last_t as found_at,
    to_json({'service': service, 'breaker': breaker}) as scope,
    if(open_s > page_s, 'page', 'ticket') as severity,
    to_json({
        'from': strftime(first_t at time zone 'UTC', '%Y-%m-%d %H:%M:%S+00'), 'open_s': open_s,
        'errors': list_slice(coalesce(errors, []), 1, 5), 'failed_ms': failed_ms
    }) as evidence,
    format('mend what {} calls, or answer with a fallback (except CircuitOpenError)', breaker)
        || coalesce(format(': each call that fails costs {:.0f} ms', failed_ms), '') as advice
from opened
left join failed using (service, breaker, since);

-- One row a finding of the last hour: a circuit breaker that was open.
create or replace view diag_breaker_open as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_breaker_open(now() - interval 1 hour, now());
