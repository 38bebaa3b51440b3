-- One row the total and each stage of one request, beside the percentiles of its route in the hour around it.
with own as (
    select *
    from requests
    where request_id = $request_id
        and trace_id = $trace_id::uuid
),
around as (
    select requests.*
    from requests, own
    where requests.route is not distinct from own.route
        and requests.service is not distinct from own.service
        and requests.started >= own.started - interval 30 minute
        and requests.started < own.started + interval 30 minute
        and not requests.synthetic
),
long as (
    select
        trace_id, request_id,
        unnest(['total'] || $stages::varchar[]) as part,
        unnest([
            total_ms, network_ms, queue_ms, retrieval_ms, prompt_ms, prefill_ms, decode_ms, tools_ms, post_ms, other_ms
        ]) as ms
    from (from around union all from own where synthetic)
),
mine as (
    select part, ms
    from long
    where request_id = $request_id
        and trace_id = $trace_id::uuid
)
select
    mine.part,
    any_value(mine.ms) as ms,
    quantile_cont(long.ms, 0.50) as p50_ms,
    quantile_cont(long.ms, 0.95) as p95_ms,
    quantile_cont(long.ms, 0.99) as p99_ms,
    count(*) as n,
    avg((long.ms < mine.ms)::int) as slower_than
from mine
join long on long.part = mine.part and long.ms > 0
where mine.ms > 0
group by mine.part
order by list_position(['total'] || $stages::varchar[], mine.part)
