-- One row a stage, in order: the requests around a percentile of the total, stage after stage, each beside its budget.
with shown as (
    select
        *,
        percent_rank() over (order by total_ms) as place
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
),
held as (
    select stage, mode(stages.budget_ms) as budget_ms
    from stages
    join shown using (request_id, trace_id)
    group by stage
),
part as (
    select
        unnest([network_ms, queue_ms, retrieval_ms, prompt_ms, prefill_ms, decode_ms, tools_ms, post_ms, other_ms]) as ms,
        unnest($stages::varchar[]) as stage,
        budget_ms as total_budget_ms
    from shown
    where place between $p::double - 0.02 and $p::double + 0.02
),
measured as (
    select
        stage,
        count(*) as n,
        avg(ms) as ms,
        mode(total_budget_ms) as total_budget_ms,
        any_value(held.budget_ms) as budget_ms
    from part
    left join held using (stage)
    group by stage
)
select
    stage,
    n,
    ms,
    (sum(ms) over so_far) - ms as from_ms,
    sum(ms) over so_far as to_ms,
    budget_ms,
    (sum(ms) over so_far) - ms + budget_ms as room_to_ms,
    greatest(ms - budget_ms, 0) as over_ms,
    total_budget_ms
from measured
window so_far as (order by list_position($stages::varchar[], stage))
order by list_position($stages::varchar[], stage)
