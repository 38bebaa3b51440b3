-- One row a value of a segment (a tenant, a model, ...): how much its requests add to what a request takes, against the baseline.
with request as (
    select
        total_ms,
        started >= $from_ts::timestamptz and started < $to_ts::timestamptz as now,
        case $by
            when 'tenant' then tenant
            when 'model' then model
            when 'route' then route
            when 'version' then version
            when 'region' then region
            when 'prompt_bucket' then prompt_bucket::varchar
        end as value
    from requests
    where not synthetic
        and ((started >= $from_ts::timestamptz and started < $to_ts::timestamptz)
            or (started >= $baseline_from_ts::timestamptz and started < $baseline_to_ts::timestamptz))
),
counted as (
    select
        count(*) filter (where now) as requests,
        count(*) filter (where not now) as baseline_requests,
        median(total_ms) filter (where not now) as p50_ms,
        quantile_cont(total_ms, 0.9) filter (where not now) as p90_ms
    from request
),
timed as (
    select
        value,
        count(*) filter (where now) as n,
        median(total_ms) filter (where now) as p50_ms,
        median(total_ms) filter (where not now) as baseline_p50_ms,
        quantile_cont(total_ms, 0.9) filter (where now) as p90_ms,
        quantile_cont(total_ms, 0.9) filter (where not now) as baseline_p90_ms
    from request
    group by value
)
select  -- a value that is new is compared with all requests of the baseline
    null::varchar as service, null::varchar as stage, null::varchar as operation, timed.value,
    n / requests * (timed.p50_ms - coalesce(baseline_p50_ms, counted.p50_ms, 0)) as delta_ms,
    n / requests * (timed.p90_ms - coalesce(baseline_p90_ms, counted.p90_ms, 0)) as p90_delta_ms,
    requests, baseline_requests
from counted
left join timed on n > 0
order by delta_ms desc, p90_delta_ms desc, timed.value
