-- One row an objective, part and six hours of its period: what was left of its error budget then, beside spending it evenly.
with budget as (
    select
        objective, part, goal, target, judged, n as all_n, budget_left,
        -- a calendar's period is taken in UTC
        case when period like '%d' then judged - to_days(try_cast(rtrim(period, 'd') as integer))
            else date_trunc(period, judged at time zone 'UTC') at time zone 'UTC' end as since,
        case when period like '%d' then judged
            else (date_trunc(period, judged at time zone 'UTC')
                + case period when 'quarter' then interval 3 month else ('1 ' || period)::interval end) at time zone 'UTC'
        end as until
    from slo_status
),
counted as (
    select objective, part, time_bucket(interval 6 hours, minute) + interval 6 hours as t, sum(n) as n, sum(bad) as bad
    from slo_minute
    group by all
),
point as (
    select budget.*, least(counted.t, judged) as t, counted.n, counted.bad
    from budget
    join counted using (objective, part)
    where counted.t > since
    union all by name
    select *, since as t, 0 as n, 0 as bad
    from budget
)
select
    objective || if(part = '', '', ' · ' || part) as label,
    goal,
    t,
    1 - sum(bad) over so_far / (all_n * (1 - target)) as left_share,
    1 - epoch(t - since) / epoch(until - since) as even_share,
    all_n as n,
    bad,
    strftime(t at time zone 'UTC', '%d %b %H:%M') as clock,
    since as window_from,
    until as window_to
from point
where all_n > 0
window so_far as (partition by objective, part order by t rows unbounded preceding)
order by budget_left, label, t
