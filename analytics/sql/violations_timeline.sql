-- One row a bucket of time and blamed stage that has violations ('none' where no stage stands out), and one a mark, without a stage.
with shown as (
    select
        time_bucket(to_seconds($bucket_s), violations.started) as t,
        coalesce(violations.over_stage, 'none') as stage
    from violations
    join requests using (request_id, trace_id)
    where violations.started >= $from_ts::timestamptz
        and violations.started < $to_ts::timestamptz
        and ($route::varchar is null or violations.route = $route)
        and ($tenant::varchar is null or violations.tenant = $tenant)
        and ($model::varchar is null or violations.model = $model)
        and not requests.synthetic
),
counted as (
    select t, t + to_seconds($bucket_s) as t2, stage, count(*) as n, null as mark
    from shown
    group by t, stage
    union all
    select t, t, null, 0, label || coalesce(' (' || service || ')', '')
    from marks
    where t >= $from_ts::timestamptz
        and t < $to_ts::timestamptz
)
select
    *,
    strftime(t at time zone 'UTC', '%H:%M:%S') as clock,
    $from_ts::timestamptz as window_from,
    $to_ts::timestamptz as window_to
from counted
order by t, stage, mark;
