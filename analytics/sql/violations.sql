-- One row a request over a budget, newest first, at most $rows of them.
select
    violations.request_id,
    violations.started,
    violations.route,
    violations.tenant,
    violations.model,
    violations.total_ms,
    violations.budget_ms,
    violations.over_stage,
    violations.over_ms,
    requests.over_by,
    requests.outcome
from violations
join requests using (request_id, trace_id)
where violations.started >= $from_ts::timestamptz
    and violations.started < $to_ts::timestamptz
    and ($route::varchar is null or violations.route = $route)
    and ($tenant::varchar is null or violations.tenant = $tenant)
    and ($model::varchar is null or violations.model = $model)
    and not requests.synthetic
order by violations.started desc, violations.request_id
limit $rows;
