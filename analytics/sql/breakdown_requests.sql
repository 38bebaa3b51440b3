-- One row a value of a column of `requests` or, with $attribute, of an attribute of the request's root span, else of its calls.
with shown as (
    select *
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
),
read as (
    select trace_id, span_id, attribute(attrs, $attribute::varchar) as value
    from spans
    where $attribute::varchar is not null
        and started >= $from_ts::timestamptz - interval 1 hour
        and started < $to_ts::timestamptz + interval 1 hour
        and (role in ('call', 'engine') or (trace_id, span_id) in (select trace_id, span_id from shown))
),
of_calls as (
    select calls.trace_id, calls.request_id, arg_max(read.value, (calls.started, calls.span_id)) as value
    from read
    join calls using (trace_id, span_id)
    where read.value is not null
    group by all
),
valued as (
    select
        case $by::varchar
            when 'service' then shown.service
            when 'tenant' then tenant
            when 'route' then route
            when 'model' then model
            when 'version' then version
            when 'region' then region
            when 'conversation' then conversation_id
            when 'outcome' then outcome
            when 'prompt_bucket' then prompt_bucket::varchar
            when 'output_bucket' then case when output_tokens > 0 then pow(2, ceil(log2(output_tokens)))::bigint::varchar end
            when 'cache_hit' then case when cached_tokens > 0 then 'hit' when cached_tokens = 0 then 'miss' end
            else coalesce(read.value, of_calls.value)
        end as value,
        case $measure::varchar
            when 'total_ms' then total_ms
            when 'cost_usd' then cost_usd
            when 'ttft_ms' then ttft_ms
            when 'usable_ms' then usable_ms
            when 'final_ms' then final_ms
            when 'network_ms' then network_ms
            when 'queue_ms' then queue_ms
            when 'retrieval_ms' then retrieval_ms
            when 'prompt_ms' then prompt_ms
            when 'prefill_ms' then prefill_ms
            when 'decode_ms' then decode_ms
            when 'tools_ms' then tools_ms
            when 'post_ms' then post_ms
            when 'other_ms' then other_ms
        end as ms
    from shown
    left join read using (trace_id, span_id)
    left join of_calls using (trace_id, request_id)
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
