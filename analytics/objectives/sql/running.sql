-- One row a request that still runs and is over a limit of one objective already, with the columns of an event.
select
    started as t,
    coalesce(({part})::varchar, '') as part,
    true as bad,
    1 as weight,
    true as running
from (
    select  -- the columns of requests, and age_ms
        live.request_id, live.trace_id, live.span_id, live.started, live.service, live.route, live.tenant, live.model,
        resources.version, resources.region, null::varchar as conversation_id, null::varchar as outcome,
        null::varchar as left_in_stage, null::double as left_after_ms, null::double as total_ms, live.ttft_ms,
        null::double as usable_ms, null::varchar as usable_source, null::double as final_ms, null::double as network_ms,
        null::double as queue_ms, null::double as retrieval_ms, null::double as prompt_ms, null::double as prefill_ms,
        null::double as decode_ms, null::double as tools_ms, null::double as post_ms, null::double as other_ms,
        null::bigint as calls, null::bigint as tool_rounds, null::bigint as attempts, null::bigint as input_tokens,
        null::bigint as output_tokens, null::bigint as cached_tokens, null::bigint as prompt_bucket,
        null::double as budget_ms, null::varchar as over_stage, null::varchar as over_by, null::double as skew_ms,
        null::varchar as root_kind, null::double as cost_usd, null::boolean as fallback, null::varchar as feedback,
        false as synthetic, null::double as weight, null::double as ttft_budget_ms, null::varchar as run_id,
        1000 * live.age_s as age_ms
    from live
    left join resources on resources.resource_id = live.resource_id
    where live.outcome is null
) as requests
where ({where}) and ({late})
