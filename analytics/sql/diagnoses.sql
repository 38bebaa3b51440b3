-- One row a finding of any diagnosis in [from_ts, to_ts), newest first: the views diag_<rule> over a time of one's choice.
with finding as (
    select 'agent_loop' as rule, * from found_agent_loop($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'batching_misconfig' as rule, * from found_batching_misconfig($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'blocked_loop' as rule, * from found_blocked_loop($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'breaker_open' as rule, * from found_breaker_open($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'buffered_stream' as rule, * from found_buffered_stream($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'cache_hit_low' as rule, * from found_cache_hit_low($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'cold_start' as rule, * from found_cold_start($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'dropped' as rule, * from found_dropped($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'far_endpoint' as rule, * from found_far_endpoint($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'hol_blocking' as rule, * from found_hol_blocking($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'kv_pressure' as rule, * from found_kv_pressure($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'littles_law' as rule, * from found_littles_law($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'looks_fast_ends_late' as rule, * from found_looks_fast_ends_late($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'no_pooling' as rule, * from found_no_pooling($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'noisy_tenant' as rule, * from found_noisy_tenant($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'output_uncapped' as rule, * from found_output_uncapped($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'oversized_model' as rule, * from found_oversized_model($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'p95_over_2s' as rule, * from found_p95_over_2s($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'prompt_bloat' as rule, * from found_prompt_bloat($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'queue_deep' as rule, * from found_queue_deep($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'queue_precedes_timeout' as rule, * from found_queue_precedes_timeout($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'rate_limited' as rule, * from found_rate_limited($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'scheduler_bug' as rule, * from found_scheduler_bug($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'tool_series' as rule, * from found_tool_series($from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select 'unpredictable' as rule, * from found_unpredictable($from_ts::timestamptz, $to_ts::timestamptz)
)
select
    finding.*,
    -- what its advice would save: named so by the rule, else the time that is spent for nothing
    coalesce(
        (evidence->>'$.saved_ms')::double,
        (evidence->>'$.saved_p99_ms')::double,
        (evidence->>'$.saved_ms_a_hit')::double,
        (evidence->>'$.round_ms')::double,
        (evidence->>'$.load_ms')::double,
        (evidence->>'$.held_ms')::double,
        (evidence->>'$.setup_ms')::double,
        (evidence->>'$.failed_ms')::double,
        (evidence->>'$.consumer_ms')::double,
        (evidence->>'$.round_trip_ms')::double,
        (evidence->>'$.backoff_ms')::double,
        (evidence->>'$.queue_ms')::double,
        (evidence->>'$.wait_ms')::double,
        (evidence->>'$.waited_ms')::double,
        (evidence->>'$.median_ms')::double,
        (evidence->>'$.tail_p95_ms')::double / 2,  -- by half of the tokens
        (evidence->>'$.ttft_ms')::double - (evidence->>'$.warm_ms')::double,
        (evidence->>'$.ttft_during_ms')::double - (evidence->>'$.ttft_after_ms')::double,
        (evidence->>'$.queue_p95_ms')::double - (evidence->>'$.usual_ms')::double,
        (evidence->>'$.p95_ms')::double - (evidence->>'$.p50_ms')::double
    ) as saves_ms,
    coalesce(
        evidence->>'$.request_id',
        (
            select min(requests.request_id)
            from requests
            where requests.started >= $from_ts::timestamptz
                and requests.started < $to_ts::timestamptz
                and requests.trace_id = (finding.evidence->>'$.trace_id')::uuid
        )
    ) as request_id
from finding
where ($route::varchar is null or scope->>'$.route' = $route)
    and ($tenant::varchar is null or scope->>'$.tenant' = $tenant)
    and ($model::varchar is null or scope->>'$.model' = $model)
order by found_at desc, rule, scope::varchar
