-- Providers that answer 429 to more than 1 % of the calls, or have less than 10 % of a limit left.
create or replace macro found_rate_limited(from_t, to_t, refused_share := 0.01, left_share := 0.1, fewest := 20) as table
with refused as (  -- of a call that went through in the end others have the 429 on a request beneath it
    select trace_id, coalesce(parent_span_id, span_id) as span_id, count(*) as refusals
    from spans
    where started >= from_t::timestamptz and started < to_t::timestamptz and role = 'network' and status_code = 429
    group by all
),
told as (
    select
        trace_id, span_id,
        try_cast(attrs->>'$."slo.ratelimit.refused"' as bigint) as own_refusals,
        least(
            try_cast(attrs->>'$."slo.ratelimit.remaining_requests"' as double)
                / try_cast(attrs->>'$."slo.ratelimit.limit_requests"' as double),
            try_cast(attrs->>'$."slo.ratelimit.remaining_tokens"' as double)
                / try_cast(attrs->>'$."slo.ratelimit.limit_tokens"' as double)
        ) as left_of_limit
    from spans
    where started >= from_t::timestamptz and started < to_t::timestamptz
        and role = 'call' and contains(attrs::varchar, '"slo.ratelimit.')
),
called as (
    select
        calls.*, left_of_limit,
        coalesce(status_code = 429, false) or coalesce(refusals, 0) > 0 or coalesce(own_refusals, 0) > 0 as was_refused
    from calls
    left join refused using (trace_id, span_id)
    left join told using (trace_id, span_id)
    where started >= from_t::timestamptz and started < to_t::timestamptz
),
limited as (
    select
        service, coalesce(server_address, provider) as peer, model, five_minutes(started) as since, count(*) as n,
        avg(was_refused::int) as share, min(left_of_limit) as left_of_limit,
        median(backoff_ms) filter (where was_refused) as backoff_ms
    from called
    group by all
    having count(*) >= fewest
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'peer': peer, 'model': model}) as scope,
    if(share > refused_share, 'page', 'ticket') as severity,
    to_json({'n': n, 'refused_share': share, 'left_of_limit': left_of_limit, 'backoff_ms': backoff_ms}) as evidence,
    format('put AdaptiveLimit or BoundedQueue before {}, or ask for a higher limit', peer)
        || coalesce(format(': a refused call waits {:.0f} ms to be tried again', backoff_ms), '') as advice
from limited
where share > refused_share or left_of_limit < left_share;

-- One row a finding of the last hour: a provider that refuses calls, or is about to.
create or replace view diag_rate_limited as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_rate_limited(now() - interval 1 hour, now());
