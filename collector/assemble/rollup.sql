-- Counts the rows that an earlier assembly gave these traces out of the roll-up, and the new ones in: a value v lies in the
-- bucket ceil(log(v) to the base 1.02), one of 0 in the bucket -32768. Whole microseconds, so that what is counted out later
-- is exactly what was counted in.
insert into rollup_minute by name
with changed as (
    select -1 as sign, * from requests
    where trace_id in (select trace_id from ripe) and started between make_timestamptz($first_us) and make_timestamptz($last_us)
    union all by name
    select 1 as sign, * exclude (req, budgets, cs) from request
),
measured as (
    unpivot (
        select
            sign, date_trunc('minute', started) as minute, service, route, model, tenant, outcome, total_ms, ttft_ms, usable_ms, final_ms,
            network_ms, queue_ms, retrieval_ms, prompt_ms, prefill_ms, decode_ms, tools_ms, post_ms, other_ms
        from changed
        where not synthetic
    ) on columns('_ms$') into name measure value ms
)
select
    minute, measure, service, route, model, tenant, outcome, rollup_bucket(ms) as bucket, sum(sign)::bigint as n,
    sum(sign * ms::decimal(18, 3))::decimal(18, 3) as total_ms
from measured
group by all
having n <> 0 or total_ms <> 0
