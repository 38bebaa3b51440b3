-- One row a stage, segment value or attribute value, dearest first: what its model calls cost, and what of it was wasted.
-- With $attribute it is an attribute of the call's span, else of its request's root span.
with call as (
    select
        calls.*, requests.span_id as root_span_id, requests.route, requests.tenant, requests.version, requests.conversation_id,
        calls.outcome in ('stopped', 'timeout') as unread
    from calls
    left join requests using (trace_id, request_id)
    where calls.started >= $from_ts::timestamptz and calls.started < $to_ts::timestamptz
        and ($route::varchar is null or requests.route = $route)
        and ($tenant::varchar is null or requests.tenant = $tenant)
        and ($model::varchar is null or requests.model = $model)
        and not coalesce(requests.synthetic, false)
),
placed as (  -- model, unless the call stands in a stage that owns it
    select
        trace_id, span_id,
        if(bool_or(stage in ('queue', 'prefill', 'decode')), 'model', arg_max(stage, duration_ms) filter (where stage <> 'network')) as stage
    from stage_spans
    where $by::varchar = 'stage'
        and started >= $from_ts::timestamptz and started < $to_ts::timestamptz + interval 1 hour
        and (trace_id, span_id) in (select trace_id, span_id from call)
    group by trace_id, span_id
),
read as (
    select trace_id, span_id, attribute(attrs, $attribute::varchar) as value
    from spans
    where $attribute::varchar is not null
        and started >= $from_ts::timestamptz - interval 1 hour
        and started < $to_ts::timestamptz + interval 1 hour
        and (
            (trace_id, span_id) in (select trace_id, span_id from call)
            or (trace_id, span_id) in (select trace_id, root_span_id from call where root_span_id is not null)
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
            when 'stage' then placed.stage
            else coalesce(own.value, root.value)
        end as value,
        call.*
    from call
    left join placed using (trace_id, span_id)
    left join read as own using (trace_id, span_id)
    left join read as root on root.trace_id = call.trace_id and root.span_id = call.root_span_id
)
select
    value,
    count(*) as calls,
    count(distinct request_id) as requests,
    sum(cost_usd) as cost_usd,
    sum(cost_usd) / nullif(count(distinct request_id) filter (where cost_usd is not null), 0) as cost_usd_a_request,
    count(*) - count(cost_usd) as unpriced_calls,
    coalesce(sum(input_tokens), 0)::bigint as input_tokens,
    coalesce(sum(cached_tokens), 0)::bigint as cached_tokens,
    coalesce(sum(output_tokens), 0)::bigint as output_tokens,
    sum(gpu_s) as gpu_s,
    sum(energy_j) as energy_j,
    count(*) filter (where hedged) as hedged_calls,
    sum(cost_usd) filter (where hedged and outcome = 'stopped') as hedging_usd,
    coalesce(sum(attempts - 1) filter (where attempts > 1), 0)::bigint as retries,
    sum(backoff_ms) as retries_ms,
    coalesce(sum(coalesce(output_tokens, chunks)) filter (where unread), 0)::bigint as wasted_tokens,
    sum(cost_usd) filter (where unread) as wasted_usd
from valued
group by value
order by cost_usd desc nulls last, value nulls last
