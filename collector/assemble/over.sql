-- One row a request over a budget, and which stage is to blame: the one furthest over its own budget (`model` stands for
-- queue, prefill and decode together where a budget says so); where only the total is over, the one furthest over its
-- median of the trailing hour of this service and route, given five requests to compare with.
insert into over
with unranked as (
    select req, stage, list_position($stages, stage) as place, critical_ms - stage_budget_ms as excess_ms, stage_budget_ms as budget_ms
    from stage
    where critical_ms > stage_budget_ms
    union all
    select
        req, 'model', 0, queue_ms + prefill_ms + decode_ms - budgets['model'], budgets['model']
    from request
    where queue_ms + prefill_ms + decode_ms > budgets['model']
),
worst as (
    select
        req, arg_max(stage, (excess_ms, -place)) as stage, max(excess_ms) as over_ms,
        arg_max(budget_ms, (excess_ms, -place)) as budget_ms
    from unranked
    group by req
),
late as (
    select * from request where total_ms > budget_ms and req not in (select req from worst)
),
late_route as (
    select service, route, min(started) as started from late group by all
),
usual as (
    unpivot (
        select
            requests.service, requests.route, median(columns('^(network|queue|retrieval|prompt|prefill|decode|tools|post|other)_ms$'))
        from requests
        join late_route
          on late_route.service is not distinct from requests.service and late_route.route is not distinct from requests.route
         and requests.started between late_route.started - interval 1 hour and late_route.started
        where not requests.synthetic and requests.started >= (select min(started) - interval 1 hour from late_route)
        group by all
        having count(*) >= 5
    ) on columns('_ms$') into name stage_ms value usual_ms
),
by_baseline as (
    select
        late.req,
        arg_max(stage.stage, (stage.critical_ms - usual.usual_ms, -list_position($stages, stage.stage))) as stage
    from late
    join stage on stage.req = late.req
    join usual
      on usual.service is not distinct from late.service and usual.route is not distinct from late.route
     and usual.stage_ms = stage.stage || '_ms'
    where stage.critical_ms > usual.usual_ms
    group by late.req
)
select req, stage as over_stage, 'budget' as over_by, budget_ms as over_budget_ms, over_ms
from worst
union all
select late.req, by_baseline.stage, case when by_baseline.stage is not null then 'baseline' end, late.budget_ms, late.total_ms - late.budget_ms
from late
left join by_baseline on by_baseline.req = late.req
