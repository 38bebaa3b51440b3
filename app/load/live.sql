-- One row a stage that took time: its percentiles on the critical path of the requests that a run sent since.
select
    stage, count(*)::bigint as n,
    quantile_cont(critical_ms, 0.5) as p50_ms, quantile_cont(critical_ms, 0.95) as p95_ms, quantile_cont(critical_ms, 0.99) as p99_ms
from stages
join requests using (trace_id, request_id)
where requests.run_id = $run_id and requests.started >= $since::timestamptz and stages.started >= $since::timestamptz
    and critical_ms > 0
group by stage
