-- Queues with more than 1,000 waiting, or more than can be served before the request times out: of engines, and of guards.
create or replace macro found_queue_deep(from_t, to_t, most_waiting := 1000, timeout_s := 60, fewest := 1) as table
with depth as (
    select five_minutes(t) as since, null as service, instance as place, model, 'engine' as kind, quantile_cont(waiting, 0.9) as waiting
    from engine
    where t >= from_t::timestamptz and t < to_t::timestamptz and waiting > 0
    group by all
    having count(*) >= fewest
    union all
    select five_minutes(t), resources.service, metrics.attrs->>'$."slo.guard"', null, 'guard', quantile_cont(value, 0.9)
    from metrics
    left join resources using (resource_id)
    where name = 'slo.queue.depth' and t >= from_t::timestamptz and t < to_t::timestamptz and value > 0
    group by all
    having count(*) >= fewest
),
done as (
    select five_minutes(started) as since, server_address, model, count(*) as n
    from calls
    where started >= from_t::timestamptz and started < to_t::timestamptz and outcome = 'ok'
    group by all
),
joined as (
    select depth.*, sum(done.n) as n
    from depth
    left join done
        on depth.kind = 'engine' and done.since = depth.since and (done.server_address = depth.place or done.model = depth.model)
    group by all
),
served as (
    select *, n / (epoch(least(since + interval 5 minutes, to_t::timestamptz)) - epoch(greatest(since, from_t::timestamptz))) as per_s
    from joined
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'kind': kind, 'name': place, 'model': model}) as scope,
    'page' as severity,
    to_json({'waiting': waiting, 'completed_per_s': per_s, 'wait_ms': waiting / per_s * 1e3}) as evidence,
    if(
        kind = 'engine', format('add an instance of {}, or refuse beyond BoundedQueue(most_waiting=...)', place),
        format('lower most_waiting of queue {} or raise its at_once', place)
    ) || coalesce(format(': who comes now waits {:.0f} ms', waiting / per_s * 1e3), '') as advice
from served
where waiting > most_waiting or waiting > per_s * timeout_s;

-- One row a finding of the last hour: a queue too deep to be served in time.
create or replace view diag_queue_deep as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_queue_deep(now() - interval 1 hour, now());
