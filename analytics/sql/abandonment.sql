-- One row a stretch of waiting (powers of two of a quarter second): of those who still waited when it began, who left in it.
with waited as (  -- until the answer was usable, or its reader left
    select
        coalesce(if(outcome = 'dropped', left_after_ms, usable_ms), final_ms, total_ms) as ms,
        outcome = 'dropped' as gone
    from requests
    where started >= $from_ts::timestamptz and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
),
stretch as (
    select if(k = 0, 0, 125 * pow(2, k)) as from_ms, 250 * pow(2, k) as up_to_ms
    from (select unnest(range(12)) as k) as power
),
counted as (
    select from_ms, up_to_ms, count(*) as waiting, count(*) filter (where gone and ms < up_to_ms) as gone
    from stretch
    join waited on ms >= from_ms
    group by all
)
select
    from_ms, up_to_ms, waiting, gone as left_n, gone / waiting as left_share,
    wilson_low(gone, waiting) as left_low, wilson_high(gone, waiting) as left_high
from counted
order by from_ms
