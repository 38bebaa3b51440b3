-- One row a part: what its period has counted, the share of the budget that is left, how fast it burns now.
latest as (
    select
        part,
        max(long_burn) filter (where rule = '2% in 1h') as burn_1h,
        max(long_burn) filter (where rule = '5% in 6h') as burn_6h,
        max(long_burn) filter (where rule = '10% in 1d') as burn_1d,
        max(long_burn) filter (where rule = '10% in 3d') as burn_3d,
        list(rule order by rule) filter (where firing) as firing,
        bool_or(firing and severity = 'page') as paging
    from burn
    where minute = time_bucket(interval 1 minute, $to_ts::timestamptz)
    group by part
),
spent as (
    select
        part, sum(n)::bigint as n, sum(bad)::bigint as bad, sum(weight) as requests, sum(bad_weight) / sum(weight) as bad_share,
        sum(spread) as spread, sum(bad_spread) as bad_spread
    from minutes
    where minute >= $since::timestamptz
    group by part
),
hanging as (
    select part, count(*) as running from late where t >= $since::timestamptz group by part
)
select
    spent.part, spent.n, spent.bad,
    1 - bad_share as good_share,
    1 - bad_share / (1 - $target) as budget_left,
    -- At this hour's burn: the period's budget is spent evenly at burn 1.
    case when latest.burn_1h > 0 and bad_share < 1 - $target
        then (1 - bad_share / (1 - $target)) * $period_s / 3600 / latest.burn_1h end as hours_left,
    latest.burn_1h, latest.burn_6h, latest.burn_1d, latest.burn_3d,
    coalesce(latest.firing, []) as firing, coalesce(latest.paging, false) as paging, requests,
    -- Of a ratio of two sums, each an estimate from events that were seen with probability 1 / weight.
    1.96 * sqrt(greatest(bad_spread * (1 - bad_share) ** 2 + (spread - bad_spread) * bad_share ** 2, 0)) / requests as margin,
    coalesce(hanging.running, 0) as running
from spent
left join latest on latest.part = spent.part
left join hanging on hanging.part = spent.part
where spent.n > 0
order by budget_left, spent.part
