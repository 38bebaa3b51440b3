-- One row a stage: how much more of a request's critical path it takes now than in the baseline.
with request as (
    select
        request_id, trace_id,
        started >= $from_ts::timestamptz and started < $to_ts::timestamptz as now
    from requests
    where not synthetic
        and ((started >= $from_ts::timestamptz and started < $to_ts::timestamptz)
            or (started >= $baseline_from_ts::timestamptz and started < $baseline_to_ts::timestamptz))
),
counted as (
    select
        count(*) filter (where now) as requests,
        count(*) filter (where not now) as baseline_requests
    from request
),
timed as (
    select
        stages.stage,
        count(*) filter (where now) as n,
        coalesce(median(stages.critical_ms) filter (where now), 0) as p50_ms,
        coalesce(median(stages.critical_ms) filter (where not now), 0) as baseline_p50_ms,
        coalesce(quantile_cont(stages.critical_ms, 0.9) filter (where now), 0) as p90_ms,
        coalesce(quantile_cont(stages.critical_ms, 0.9) filter (where not now), 0) as baseline_p90_ms
    from stages
    join request using (request_id, trace_id)
    group by stages.stage
)
select
    null::varchar as service, timed.stage, null::varchar as operation, null::varchar as value,
    n / requests * (p50_ms - baseline_p50_ms) as delta_ms,
    n / requests * (p90_ms - baseline_p90_ms) as p90_delta_ms,
    requests, baseline_requests
from counted
left join timed on n > 0
order by delta_ms desc, p90_delta_ms desc, timed.stage
