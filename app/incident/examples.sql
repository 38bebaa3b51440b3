-- One row a request: the ten that took longest, with where their time went.
select
    trace_id, request_id, started, tenant, outcome, total_ms, over_stage, queue_ms, retrieval_ms, prefill_ms, decode_ms,
    tools_ms, other_ms
from requests
where started >= $from_ts::timestamptz and started < $to_ts::timestamptz and not synthetic
order by total_ms desc, request_id
limit 10
