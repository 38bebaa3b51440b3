-- One row a blamed stage, most violations first; 'none' where no stage stands out.
with shown as (
    select
        coalesce(violations.over_stage, 'none') as stage,
        violations.over_ms
    from violations
    join requests using (request_id, trace_id)
    where violations.started >= $from_ts::timestamptz
        and violations.started < $to_ts::timestamptz
        and ($route::varchar is null or violations.route = $route)
        and ($tenant::varchar is null or violations.tenant = $tenant)
        and ($model::varchar is null or violations.model = $model)
        and not requests.synthetic
)
select
    stage,
    count(*) as n,
    quantile_cont(over_ms, 0.50) as over_p50_ms,
    max(over_ms) as over_max_ms
from shown
group by stage
order by n desc, stage;
