-- One row a bucket of how long the answer took (powers of two of a quarter second): shares with Wilson's intervals at 95 %.
with said as (
    select request_id, arg_max(completed, t) as completed, arg_max(converted, t) as converted, arg_max(score, t) as score
    from feedback
    where t >= $from_ts::timestamptz
    group by request_id
),
answered as (
    select
        250 * pow(2, greatest(0, ceil(log2(greatest(final_ms, 1) / 250)))) as up_to_ms,
        outcome = 'dropped' as dropped, said.*
    from requests
    left join said using (request_id)
    where requests.started >= $from_ts::timestamptz and requests.started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic and final_ms is not null
),
counted as (
    select
        up_to_ms,
        count(*) as n, count(*) filter (where dropped) as dropped,
        count(completed) as completion_n, count(*) filter (where completed) as completed,
        count(converted) as conversion_n, count(*) filter (where converted) as converted,
        avg(score) as mean_score
    from answered
    group by up_to_ms
)
select
    up_to_ms,
    n, dropped / n as dropped_share, wilson_low(dropped, n) as dropped_low, wilson_high(dropped, n) as dropped_high,
    completion_n, completed / nullif(completion_n, 0) as completed_share,
    wilson_low(completed, completion_n) as completed_low, wilson_high(completed, completion_n) as completed_high,
    conversion_n, converted / nullif(conversion_n, 0) as converted_share,
    wilson_low(converted, conversion_n) as converted_low, wilson_high(converted, conversion_n) as converted_high,
    mean_score
from counted
order by up_to_ms
