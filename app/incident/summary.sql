-- One row: how many requests, how they ended, and how long they took.
select
    count(*) as n,
    count_if(outcome in ('error', 'timeout', 'dropped', 'shed', 'lost'))::bigint as bad,
    count(distinct tenant) as tenants,
    quantile_cont(total_ms, 0.5) as p50_ms, quantile_cont(total_ms, 0.95) as p95_ms, quantile_cont(total_ms, 0.99) as p99_ms,
    quantile_cont(ttft_ms, 0.95) as ttft_p95_ms,
    count_if(over_stage is not null)::bigint as over_budget, mode(over_stage) as worst_stage
from requests
where started >= $from_ts::timestamptz and started < $to_ts::timestamptz and not synthetic
