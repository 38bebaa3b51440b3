-- One row a step of time (60 of them at most): requests, percentiles, and what opened, closed or was marked then.
with step as (
    select to_seconds(greatest(60, ceil(epoch($to_ts::timestamptz - $from_ts::timestamptz) / 3600) * 60)::bigint) as length
),
happened as (
    select opened as t, 'opened: ' || summary as what from alerts
    union all
    select closed, 'closed: ' || summary from alerts where closed is not null
    union all
    select t, 'mark: ' || label from marks
),
events as (
    select time_bucket(step.length, t, $from_ts::timestamptz) as t, string_agg(what, '; ' order by happened.t) as what
    from happened, step
    where happened.t >= $from_ts::timestamptz and happened.t < $to_ts::timestamptz
    group by 1
),
counted as (
    select
        time_bucket(step.length, started, $from_ts::timestamptz) as t, count(*) as n,
        count_if(outcome in ('error', 'timeout', 'dropped', 'shed', 'lost'))::bigint as bad,
        count_if(over_stage is not null)::bigint as over_budget,
        quantile_cont(total_ms, 0.5) as p50_ms, quantile_cont(total_ms, 0.95) as p95_ms, mode(over_stage) as worst_stage
    from requests, step
    where started >= $from_ts::timestamptz and started < $to_ts::timestamptz and not synthetic
    group by 1
)
select coalesce(counted.t, events.t) as t, n, bad, over_budget, p50_ms, p95_ms, worst_stage, what
from counted
full join events on events.t = counted.t
order by 1
