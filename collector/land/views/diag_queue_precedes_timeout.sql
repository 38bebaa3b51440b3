-- Routes whose p95 of the queue has risen for 10 minutes to twice that of the hour before, and reaches the timeout within 15 minutes.
create or replace macro found_queue_precedes_timeout(
    from_t, to_t, timeout_s := 60, within_minutes := 15, rise_factor := 2, fewest := 20
) as table
with waited as (
    select
        service, route, date_trunc('minute', started) as minute, count(*) as n, quantile_cont(queue_ms, 0.95) as queue_p95_ms
    from requests
    where started >= from_t::timestamptz - interval 70 minutes and started < to_t::timestamptz and not synthetic
    group by all
),
fitted as (
    select
        *, sum(n) over lately as lately_n, count(*) over lately as minutes,
        regr_slope(queue_p95_ms, epoch(minute) / 60) over lately as ms_a_minute,
        avg(queue_p95_ms) over lately
            + regr_slope(queue_p95_ms, epoch(minute) / 60) over lately * (epoch(minute) / 60 - avg(epoch(minute) / 60) over lately) as level_ms,
        median(queue_p95_ms) over usual as usual_ms
    from waited
    window
        lately as (partition by service, route order by minute range between interval 9 minutes preceding and current row),
        usual as (partition by service, route order by minute range between interval 70 minutes preceding and interval 10 minutes preceding)
),
rising as (
    select *, (timeout_s * 1e3 - level_ms) / nullif(ms_a_minute, 0) as minutes_left
    from fitted
    where minute >= from_t::timestamptz and minutes >= 8 and lately_n >= fewest
        and ms_a_minute > 0 and queue_p95_ms >= rise_factor * usual_ms
)
select
    max(minute) + interval 1 minute as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'page' as severity,
    to_json({
        'queue_p95_ms': arg_max(queue_p95_ms, minute), 'usual_ms': arg_max(usual_ms, minute),
        'ms_a_minute': arg_max(ms_a_minute, minute), 'minutes_left': arg_max(minutes_left, minute)
    }) as evidence,
    format(
        'shed load on {} now (LoadShedder, BoundedQueue(max_wait_s=...)): its queue grows by {:.0f} ms a minute and times out in {:.0f} minutes',
        route, arg_max(ms_a_minute, minute), greatest(arg_max(minutes_left, minute), 0)
    ) as advice
from rising
where minutes_left <= within_minutes
group by service, route, five_minutes(minute);

-- One row a finding of the last hour: a route whose queue is about to reach the timeout.
create or replace view diag_queue_precedes_timeout as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_queue_precedes_timeout(now() - interval 1 hour, now());
