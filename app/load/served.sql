-- One row a request that a run sent since, as the service served it, by the id under which it was sent.
select
    requests.request_id, service, route, tenant, model, version, region, outcome, left_in_stage, calls, tool_rounds, attempts,
    input_tokens, output_tokens, cached_tokens, prompt_bucket, fallback, cost_usd, root_kind, usable_ms, total_ms,
    network_ms, queue_ms, retrieval_ms, prompt_ms, prefill_ms, decode_ms, tools_ms, post_ms, other_ms
from requests
where run_id = $run_id and started >= $since::timestamptz
qualify row_number() over (partition by requests.request_id order by total_ms desc) = 1
