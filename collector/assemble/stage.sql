-- One row a request and stage that has time or spans, with the same columns as the table `stages`.
create or replace temp table stage as
with covered as (
    select
        req, stage, a, b,
        max(b) over (partition by req, stage order by a, b rows between unbounded preceding and 1 preceding) as before
    from piece
    where covers
),
busy as (
    select req, stage, sum(greatest(b - greatest(a, coalesce(before, a)), 0))::bigint as ns
    from covered
    group by req, stage
),
summed as (
    select req, stage, count(ns) as spans, sum(critical_ns)::bigint as critical_ns
    from part
    group by req, stage
)
select
    summed.req, request_id, trace_id, started, summed.stage, spans, busy.ns / 1e6 as busy_ms, critical_ns / 1e6 as critical_ms,
    budgets[summed.stage] as stage_budget_ms,
    case when critical_ns / 1e6 > budgets[summed.stage] then critical_ns / 1e6 - budgets[summed.stage] end as over_ms
from summed
join busy on busy.req = summed.req and busy.stage = summed.stage
join request on request.req = summed.req
