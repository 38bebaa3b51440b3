-- Routes that call models without max_tokens, or that have a total budget and a p99 of more than 512 output tokens.
create or replace macro found_output_uncapped(from_t, to_t, most_tokens := 512, fewest := 20) as table
with answered as (
    select
        requests.service, requests.route, five_minutes(requests.started) as since, count(*) as n,
        avg((calls.max_tokens is null)::int) as uncapped_share,
        quantile_cont(calls.output_tokens, 0.99) as output_p99, min(requests.budget_ms) as total_budget_ms,
        median(calls.tpot_ms) as tpot_ms
    from calls
    join requests using (trace_id, request_id)
    where requests.started >= from_t::timestamptz and requests.started < to_t::timestamptz and not requests.synthetic
        and calls.started >= from_t::timestamptz
    group by all
    having count(*) >= fewest
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'ticket' as severity,
    to_json({
        'n': n, 'uncapped_share': uncapped_share, 'output_p99': output_p99, 'budget_ms': total_budget_ms, 'tpot_ms': tpot_ms,
        'saved_p99_ms': greatest(output_p99 - most_tokens, 0) * tpot_ms
    }) as evidence,
    format('call with max_tokens={} on {}', most_tokens, route)
        || coalesce(format(': {:.0f} ms of its longest answers', greatest(output_p99 - most_tokens, 0) * tpot_ms), '') as advice
from answered
where uncapped_share > 0.5 or output_p99 > most_tokens and total_budget_ms is not null;

-- One row a finding of the last hour: a route whose answers have no limit.
create or replace view diag_output_uncapped as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_output_uncapped(now() - interval 1 hour, now());
