-- One row a stage, in order: its mean time a request in a box of time and total latency, and in the rest of the window.
with shown as (
    select
        started >= $box_from_ts::timestamptz and started < $box_to_ts::timestamptz
            and total_ms >= $lo_ms::double and total_ms < $hi_ms::double as inside,
        unnest([network_ms, queue_ms, retrieval_ms, prompt_ms, prefill_ms, decode_ms, tools_ms, post_ms, other_ms]) as ms,
        unnest($stages::varchar[]) as stage
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
)
select
    stage,
    count(*) filter (where inside) as n,
    avg(ms) filter (where inside) as ms,
    count(*) filter (where not inside) as rest_n,
    avg(ms) filter (where not inside) as rest_ms,
    avg(ms) filter (where inside) - avg(ms) filter (where not inside) as more_ms
from shown
group by stage
order by list_position($stages::varchar[], stage)
