-- One row a request and stage that has time or spans, with the same columns as the table `stages`.
create or replace temp table stage as
with covered as (
    select
        *,
        max(b) over (partition by req, stage order by a, b rows between unbounded preceding and 1 preceding) as before
    from piece
),
summed as (
    select
        req, stage,
        count(distinct i) filter (where not critical) as spans,
        sum(greatest(b - greatest(a, coalesce(before, a)), 0))::bigint as busy_ns,
        coalesce(sum(b - a) filter (where critical), 0)::bigint as critical_ns
    from covered
    group by req, stage
)
select
    req, request_id, trace_id, started, stage, spans, busy_ns / 1e6 as busy_ms, critical_ns / 1e6 as critical_ms,
    budgets[stage] as stage_budget_ms,
    case when critical_ns / 1e6 > budgets[stage] then critical_ns / 1e6 - budgets[stage] end as over_ms
from summed
join request using (req)
