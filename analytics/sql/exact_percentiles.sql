-- One row: number, mean and exact percentiles of a measure of the requests of a window.
with shown as (
    select
        case $measure::varchar
            when 'total_ms' then total_ms
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
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($service::varchar is null or service = $service)
        and ($route::varchar is null or route = $route)
        and ($model::varchar is null or model = $model)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($outcome::varchar is null or outcome = $outcome)
        and ($version::varchar is null or version = $version)
        and ($region::varchar is null or region = $region)
        and ($prompt_bucket::varchar is null or prompt_bucket::varchar = $prompt_bucket)
        and not synthetic
)
select
    count(ms) as n,
    avg(ms) as mean_ms,
    quantile_cont(ms, 0.50) as p50_ms,
    quantile_cont(ms, 0.95) as p95_ms,
    quantile_cont(ms, 0.99) as p99_ms
from shown;
