-- One row a stage, in order, also those without time: percentiles of its time on the critical path of the requests that have it.
with named as (
    select unnest($stages::varchar[]) as stage
),
shown as (
    select stages.*
    from stages
    join requests using (request_id, trace_id)
    where requests.started >= $from_ts::timestamptz
        and requests.started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
)
select
    named.stage,
    count(critical_ms) as n,
    quantile_cont(critical_ms, 0.50) as p50_ms,
    quantile_cont(critical_ms, 0.95) as p95_ms,
    quantile_cont(critical_ms, 0.99) as p99_ms,
    mode(budget_ms) as budget_ms,
    count(distinct budget_ms) as budgets,
    quantile_cont(critical_ms, 0.95) / mode(budget_ms) as used,
    count(over_ms) as over_n
from named
left join shown using (stage)
group by named.stage
order by list_position($stages::varchar[], named.stage);
