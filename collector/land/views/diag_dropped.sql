-- Routes of which more than 2 % of the clients leave before the answer is usable, by Wilson's lower bound at 95 %. Of few requests
-- those who left are too many: they ended, while others still run.
create or replace macro found_dropped(from_t, to_t, most_share := 0.02, fewest := 30) as table
with left_early as (
    select
        service, route, five_minutes(started) as since, count(*)::double as n,
        count(*) filter (where outcome = 'dropped') as k,
        mode(left_in_stage) filter (where outcome = 'dropped') as stage,
        median(left_after_ms) filter (where outcome = 'dropped') as after_ms
    from requests
    where started >= from_t::timestamptz and started < to_t::timestamptz and not synthetic
    group by all
),
bounded as (
    select *, (k / n + 1.9208 / n - 1.96 * sqrt(k / n * (1 - k / n) / n + 0.9604 / (n * n))) / (1 + 3.8416 / n) as at_least
    from left_early
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'page' as severity,
    to_json({'n': n, 'dropped': k, 'at_least': at_least, 'stage': stage, 'left_after_ms': after_ms}) as evidence,
    format('show something before {:.0f} ms on {}: most leave in {}; give it a budget', after_ms, route, coalesce(stage, 'other')) as advice
from bounded
where at_least > most_share and n >= fewest;

-- One row a finding of the last hour: a route whose clients leave.
create or replace view diag_dropped as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_dropped(now() - interval 1 hour, now());
