-- Services whose event loop runs timers over 100 ms late at p99, or that sit on chunks for over a fifth of the decode time.
create or replace macro found_blocked_loop(from_t, to_t, lag_ms := 100, consumer_share := 0.2, fewest := 20) as table
with late as (  -- timers in buckets above the limit, of all
    select
        service, five_minutes(t) as since,
        sum(list_sum(grown_counts)) as n,
        sum(list_sum(list_slice(grown_counts, len(list_filter(bounds, lambda bound: bound <= lag_ms / 1e3)) + 1, len(grown_counts)))) as late_n
    from counted('slo.loop.lag', from_t, to_t)
    left join resources using (resource_id)
    group by all
),
consumer as (
    select service, five_minutes(started) as since, count(*) as n, sum(consumer_ms) as consumer_ms, sum(decode_ms) as decode_ms
    from calls
    where started >= from_t::timestamptz and started < to_t::timestamptz and consumer_ms is not null
    group by all
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service}) as scope,
    'ticket' as severity,
    to_json({'timers': n, 'late_share': late_n / n}) as evidence,
    format(
        'take what blocks the event loop of {} off it (asyncio.to_thread): everybody waits over {} ms in {:.1f} % of the time',
        service, lag_ms, 100 * late_n / n
    ) as advice
from late
where n >= fewest and late_n > 0.01 * n
union all
select
    least(since + interval 5 minutes, to_t::timestamptz),
    to_json({'service': service}),
    'ticket',
    to_json({'calls': n, 'consumer_share': consumer_ms / decode_ms, 'consumer_ms': consumer_ms / n}),
    format('read the stream of {} in a task of its own: {:.0f} ms a call pass between its chunks', service, consumer_ms / n)
from consumer
where n >= fewest and consumer_ms > consumer_share * decode_ms;

-- One row a finding of the last hour: a service that blocks its event loop, or reads streams slowly.
create or replace view diag_blocked_loop as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_blocked_loop(now() - interval 1 hour, now());
