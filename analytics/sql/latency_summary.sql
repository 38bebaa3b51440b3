-- One row: percentiles, commonest budget and good share of the requests of a window. Good is within the budget and ok, or left after content.
with shown as (
    select *
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
),
judged as (
    select
        *,
        budget_ms is not null and outcome <> 'rejected' as counts,
        coalesce(total_ms <= budget_ms, false) and outcome in ('ok', 'left') as good
    from shown
)
select
    count(*) as n,
    coalesce(sum(coalesce(weight, 1)), 0) as stands_for,
    quantile_cont(total_ms, 0.50) as p50_ms,
    quantile_cont(total_ms, 0.95) as p95_ms,
    quantile_cont(total_ms, 0.99) as p99_ms,
    mode(budget_ms) as budget_ms,
    count(distinct budget_ms) as budgets,
    count(*) filter (where counts) as counted,
    count(*) filter (where counts and good) as good,
    count(*) filter (where outcome = 'dropped') as dropped,
    count(*) filter (where outcome in ('error', 'timeout', 'shed', 'lost')) as failed
from judged;
