-- One row a value of a segment (a tenant, a model, ...) or of an attribute: how much its requests add to what a request takes.
-- With $attribute it is an attribute of the root span.
with shown as (
    select *, started >= $from_ts::timestamptz and started < $to_ts::timestamptz as now
    from requests
    where not synthetic
        and ((started >= $from_ts::timestamptz and started < $to_ts::timestamptz)
            or (started >= $baseline_from_ts::timestamptz and started < $baseline_to_ts::timestamptz))
),
read as (
    select trace_id, span_id, attribute(attrs, $attribute::varchar) as value
    from spans
    where $attribute::varchar is not null
        and started >= $baseline_from_ts::timestamptz - interval 1 hour
        and started < $to_ts::timestamptz + interval 1 hour
        and (trace_id, span_id) in (select trace_id, span_id from shown)
),
request as (
    select
        total_ms,
        now,
        case $by::varchar
            when 'tenant' then tenant
            when 'model' then model
            when 'route' then route
            when 'version' then version
            when 'region' then region
            when 'conversation' then conversation_id
            when 'outcome' then outcome
            when 'prompt_bucket' then prompt_bucket::varchar
            when 'output_bucket' then case when output_tokens > 0 then pow(2, ceil(log2(output_tokens)))::bigint::varchar end
            when 'cache_hit' then case when cached_tokens > 0 then 'hit' when cached_tokens = 0 then 'miss' end
            else read.value
        end as value
    from shown
    left join read using (trace_id, span_id)
),
counted as (
    select
        count(*) filter (where now) as requests,
        count(*) filter (where not now) as baseline_requests,
        median(total_ms) filter (where not now) as p50_ms,
        quantile_cont(total_ms, 0.9) filter (where not now) as p90_ms
    from request
),
timed as (
    select
        value,
        count(*) filter (where now) as n,
        median(total_ms) filter (where now) as p50_ms,
        median(total_ms) filter (where not now) as baseline_p50_ms,
        quantile_cont(total_ms, 0.9) filter (where now) as p90_ms,
        quantile_cont(total_ms, 0.9) filter (where not now) as baseline_p90_ms
    from request
    group by value
)
select  -- a value that is new is compared with all requests of the baseline
    null::varchar as service, null::varchar as stage, null::varchar as operation, timed.value,
    n / requests * (timed.p50_ms - coalesce(baseline_p50_ms, counted.p50_ms, 0)) as delta_ms,
    n / requests * (timed.p90_ms - coalesce(baseline_p90_ms, counted.p90_ms, 0)) as p90_delta_ms,
    requests, baseline_requests
from counted
left join timed on n > 0
order by delta_ms desc, p90_delta_ms desc, timed.value
