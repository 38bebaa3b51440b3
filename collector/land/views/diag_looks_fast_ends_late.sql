-- Routes that begin in time and end late: p95 of the first token within its budget and of the end over its own, or a tail of more
-- than 3 s and 4 times the first token.
create or replace macro found_looks_fast_ends_late(from_t, to_t, tail_ms := 3000, tail_factor := 4, fewest := 50) as table
with timed as (
    select
        requests.service, requests.route, five_minutes(requests.started) as since, count(*) as n,
        quantile_cont(requests.ttft_ms, 0.95) as ttft_p95_ms,
        quantile_cont(requests.final_ms, 0.95) as final_p95_ms,
        quantile_cont(requests.final_ms - requests.ttft_ms, 0.95) as tail_p95_ms,
        min(requests.ttft_budget_ms) as ttft_budget_ms, min(requests.budget_ms) as total_budget_ms,
        median(calls.output_tokens) as tokens
    from requests
    left join (
        select trace_id, request_id, max(output_tokens) as output_tokens
        from calls
        where started >= from_t::timestamptz
        group by all
    ) as calls on calls.trace_id = requests.trace_id and calls.request_id = requests.request_id
    where requests.started >= from_t::timestamptz and requests.started < to_t::timestamptz
        and not requests.synthetic and requests.ttft_ms is not null
    group by all
    having count(*) >= fewest
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'ticket' as severity,
    to_json({
        'n': n, 'ttft_p95_ms': ttft_p95_ms, 'final_p95_ms': final_p95_ms, 'tail_p95_ms': tail_p95_ms,
        'ttft_budget_ms': ttft_budget_ms, 'total_budget_ms': total_budget_ms, 'median_tokens': tokens
    }) as evidence,
    format(
        'lower max_tokens of {} or give decode a budget: half of its {:.0f} tokens would save about {:.0f} ms of p95',
        route, coalesce(tokens, 0), tail_p95_ms / 2
    ) as advice
from timed
where ttft_p95_ms <= ttft_budget_ms and final_p95_ms > total_budget_ms
    or tail_p95_ms > tail_ms and tail_p95_ms > tail_factor * ttft_p95_ms;

-- One row a finding of the last hour: a route whose first token comes in time and whose end does not.
create or replace view diag_looks_fast_ends_late as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_looks_fast_ends_late(now() - interval 1 hour, now());
