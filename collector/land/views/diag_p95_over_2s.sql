-- Routes with more than 5 % of their requests over 2 s in each of 5 consecutive minutes; `stage` is the one whose excess over its
-- median costs the p95 most.
create or replace macro found_p95_over_2s(from_t, to_t, limit_ms := 2000, allowed := 0.05, consecutive := 5, fewest := 20) as table
with slow_minute as (
    select service, route, date_trunc('minute', started) as minute, count(*) as n, avg((total_ms > limit_ms)::int) as slow_share
    from requests
    where started >= from_t::timestamptz and started < to_t::timestamptz and not synthetic
    group by all
    having n >= fewest and slow_share > allowed
),
run as (
    select
        service, route, island, min(minute) as began, max(minute) + interval 1 minute as ended, sum(n) as n,
        avg(slow_share) as slow_share
    from (select *, minute - to_minutes(row_number() over (partition by service, route order by minute)) as island from slow_minute)
    group by all
    having count(*) >= consecutive
),
part as (
    select run.*, total_ms, stage, ms - median(ms) over (partition by run.service, run.route, began, stage) as excess_ms
    from run
    join (
        select
            service, route, started, total_ms,
            unnest(['network', 'queue', 'retrieval', 'prompt', 'prefill', 'decode', 'tools', 'post', 'other']) as stage,
            unnest([network_ms, queue_ms, retrieval_ms, prompt_ms, prefill_ms, decode_ms, tools_ms, post_ms, other_ms]) as ms
        from requests
        where started >= from_t::timestamptz and started < to_t::timestamptz and not synthetic
    ) as request
        on request.service is not distinct from run.service and request.route is not distinct from run.route
        and request.started >= began and request.started < ended
),
staged as (
    select
        service, route, began, ended, n, slow_share, stage,
        quantile_cont(total_ms, 0.95) as p95_ms,
        quantile_cont(total_ms, 0.95) - quantile_cont(total_ms - greatest(excess_ms, 0), 0.95) as saved_ms
    from part
    group by all
)
select
    ended as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'page' as severity,
    to_json({
        'from': strftime(began at time zone 'UTC', '%Y-%m-%d %H:%M:%S+00'), 'n': n, 'slow_share': slow_share, 'p95_ms': p95_ms,
        'stage': stage, 'saved_ms': saved_ms
    }) as evidence,
    format('{} of {}: hold {} to its median (budgets_ms={{"{}": ...}}), p95 falls by {:.0f} ms', stage, route, stage, stage, saved_ms)
        as advice
from staged
qualify row_number() over (partition by service, route, began order by saved_ms desc, stage) = 1;

-- One row a finding of the last hour: a route with more than 5 % of its requests over 2 s for 5 minutes.
create or replace view diag_p95_over_2s as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_p95_over_2s(now() - interval 1 hour, now());
