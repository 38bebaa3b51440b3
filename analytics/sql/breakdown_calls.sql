-- One row a value of a column of `calls` or, with $attribute, of an attribute of the call's span, else of its request's root span.
with shown as (
    select
        calls.*,
        requests.span_id as root_span_id,
        requests.tenant,
        requests.route,
        requests.version,
        requests.conversation_id
    from calls
    left join requests using (trace_id, request_id)
    where calls.started >= $from_ts::timestamptz
        and calls.started < $to_ts::timestamptz
        and ($route::varchar is null or requests.route = $route)
        and ($tenant::varchar is null or requests.tenant = $tenant)
        and ($model::varchar is null or requests.model = $model)
        and not coalesce(requests.synthetic, false)
),
read as (
    select trace_id, span_id, attribute(attrs, $attribute::varchar) as value
    from spans
    where $attribute::varchar is not null
        and started >= $from_ts::timestamptz - interval 1 hour
        and started < $to_ts::timestamptz + interval 1 hour
        and (
            (trace_id, span_id) in (select trace_id, span_id from shown)
            or (trace_id, span_id) in (select trace_id, root_span_id from shown where root_span_id is not null)
        )
),
valued as (
    select
        case $by::varchar
            when 'service' then service
            when 'tenant' then tenant
            when 'route' then route
            when 'model' then model
            when 'provider' then provider
            when 'version' then version
            when 'region' then region
            when 'role' then role
            when 'stream' then stream::varchar
            when 'server_address' then server_address
            when 'conversation' then conversation_id
            when 'outcome' then outcome
            when 'prompt_bucket' then prompt_bucket::varchar
            when 'output_bucket' then case when output_tokens > 0 then pow(2, ceil(log2(output_tokens)))::bigint::varchar end
            when 'cache_hit' then case when cached_tokens > 0 then 'hit' when cached_tokens = 0 then 'miss' end
            else coalesce(own.value, root.value)
        end as value,
        case $measure::varchar
            when 'total_ms' then total_ms
            when 'cost_usd' then cost_usd
            when 'ttft_ms' then ttft_ms
            when 'ttfc_ms' then ttfc_ms
            when 'server_ttft_ms' then server_ttft_ms
            when 'tpot_ms' then tpot_ms
            when 'network_ms' then network_ms
            when 'queue_ms' then queue_ms
            when 'prefill_ms' then prefill_ms
            when 'decode_ms' then decode_ms
        end as ms
    from shown
    left join read as own using (trace_id, span_id)
    left join read as root on root.trace_id = shown.trace_id and root.span_id = shown.root_span_id
)
select
    value,
    count(ms) as n,
    quantile_cont(ms, 0.50) as p50_ms,
    quantile_cont(ms, 0.95) as p95_ms,
    quantile_cont(ms, 0.99) as p99_ms
from valued
group by value
having count(ms) > 0
order by if($by::varchar like '%\_bucket' escape '\', try_cast(value as bigint), null) nulls last, n desc, value nulls last
limit $rows;
