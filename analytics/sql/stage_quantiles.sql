-- One row a stage: its time on the critical path at each rank of $ranks, over the requests of the window that ended well.
with shown as (
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
        and outcome in ('ok', 'left', 'degraded')
)
select stage, quantile_cont(ms, $ranks::double[]) as ms, count(*) as n
from (
    select
        unnest(['network_ms', 'queue_ms', 'retrieval_ms', 'prompt_ms', 'prefill_ms', 'decode_ms', 'tools_ms', 'post_ms', 'other_ms']) as stage,
        unnest([network_ms, queue_ms, retrieval_ms, prompt_ms, prefill_ms, decode_ms, tools_ms, post_ms, other_ms]) as ms
    from shown
) as listed
group by stage
order by stage
