-- One row a request of a box of time and total latency, slowest first, at most $rows of them; its longest stage beside it.
select
    request_id,
    started,
    route,
    tenant,
    model,
    outcome,
    total_ms,
    ttft_ms,
    output_tokens,
    list_extract($stages::varchar[], list_position(parts, list_max(parts))) as longest
from (
    select
        *,
        [network_ms, queue_ms, retrieval_ms, prompt_ms, prefill_ms, decode_ms, tools_ms, post_ms, other_ms] as parts
    from requests
    where started >= $box_from_ts::timestamptz
        and started < $box_to_ts::timestamptz
        and total_ms >= $lo_ms::double
        and total_ms < $hi_ms::double
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
)
order by total_ms desc, request_id
limit $rows
