-- The slowest model calls of the last hour
select started, model, provider, total_ms, ttft_ms, tpot_ms, input_tokens, output_tokens, outcome, request_id
from calls
where started >= since('1h')
order by total_ms desc
limit 100
