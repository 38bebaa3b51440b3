-- Routes whose p95 is over 6 times their p50 in a day, or whose hourly p95 varies by more than twice, although the budget holds.
create or replace macro found_unpredictable(from_t, to_t, tail_factor := 6, hourly_factor := 2, fewest := 100, fewest_an_hour := 20) as table
with request as (
    select service, route, date_trunc('hour', started) as hour, total_ms, budget_ms
    from requests
    where started >= to_t::timestamptz - interval 1 day and started < to_t::timestamptz and not synthetic
),
hourly as (
    select service, route, max(p95_ms) / min(p95_ms) as varies
    from (
        select service, route, hour, quantile_cont(total_ms, 0.95) as p95_ms
        from request
        group by all
        having count(*) >= fewest_an_hour
    )
    group by all
),
daily as (
    select
        service, route, count(*) as n, quantile_cont(total_ms, 0.5) as p50_ms, quantile_cont(total_ms, 0.95) as p95_ms,
        min(budget_ms) as total_budget_ms
    from request
    group by all
    having count(*) >= fewest
)
select
    to_t::timestamptz as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'ticket' as severity,
    to_json({'n': n, 'p50_ms': p50_ms, 'p95_ms': p95_ms, 'hourly_p95_varies': varies, 'budget_ms': total_budget_ms}) as evidence,
    format(
        'compare the slow requests of {} with the rest (tailbudget report --by stage,tenant,prompt_bucket); its tail is {:.0f} ms', route, p95_ms - p50_ms
    ) as advice
from daily
left join hourly using (service, route)
where (p95_ms > tail_factor * p50_ms or varies > hourly_factor) and (total_budget_ms is null or p95_ms <= total_budget_ms);

-- One row a finding of the last hour: a route whose latency nobody can rely on.
create or replace view diag_unpredictable as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_unpredictable(now() - interval 1 hour, now());
