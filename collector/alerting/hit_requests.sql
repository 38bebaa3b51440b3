-- One row: how many requests, tenants and conversations were hit, the stage that was over most often or grew most, the tenant
-- hit most often, and the three slowest requests. {where} and {bad} are conditions over requests.
with seen as (
    select *, coalesce(({bad}), false) as hit
    from requests
    where started >= $since::timestamptz and started <= $until::timestamptz and not synthetic and ({where})
),
stage_times as (
    unpivot (select hit, network_ms, queue_ms, retrieval_ms, prompt_ms, prefill_ms, decode_ms, tools_ms, post_ms from seen)
    on columns(* exclude (hit)) into name stage value ms
),
grown as (
    select stage, avg(ms) filter (where hit) - coalesce(avg(ms) filter (where not hit), 0) as more_ms
    from stage_times
    group by stage
),
worst as (
    select arg_max(request_id, total_ms, 3) as traces from seen where hit
)
select
    count_if(hit)::bigint as requests,
    count(distinct tenant) filter (where hit) as tenants,
    count(distinct conversation_id) filter (where hit) as conversations,
    coalesce(
        mode(over_stage) filter (where hit),
        (select replace(arg_max(stage, more_ms), '_ms', '') from grown where more_ms > 0)
    ) as worst_stage,
    mode(tenant) filter (where hit) as worst_tenant,
    (select traces from worst) as traces
from seen
