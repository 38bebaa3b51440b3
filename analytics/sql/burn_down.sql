-- One row an objective, part and six hours of its period: what was left of its error budget then, beside spending it evenly.
with budget as (
    select
        objective, part, goal, target, judged, n as all_n, budget_left, blind_since,
        case period  -- a calendar's period is taken in UTC
            when 'day' then date_trunc('day', judged at time zone 'UTC') at time zone 'UTC'
            when 'week' then date_trunc('week', judged at time zone 'UTC') at time zone 'UTC'
            when 'month' then date_trunc('month', judged at time zone 'UTC') at time zone 'UTC'
            when 'quarter' then date_trunc('quarter', judged at time zone 'UTC') at time zone 'UTC'
            when 'year' then date_trunc('year', judged at time zone 'UTC') at time zone 'UTC'
            else judged - to_days(try_cast(rtrim(period, 'd') as integer))
        end as since,
        period
    from slo_status
),
ending as (
    select
        *,
        case period
            when 'day' then since + interval 1 day
            when 'week' then since + interval 7 day
            when 'month' then since + interval 1 month
            when 'quarter' then since + interval 3 month
            when 'year' then since + interval 1 year
            else judged
        end as until
    from budget
),
counted as (
    select objective, part, time_bucket(interval 6 hours, minute) + interval 6 hours as t, sum(n) as n, sum(bad) as bad
    from slo_minute
    group by all
),
told as (
    select objective, part, t, n, bad
    from counted
    union all
    select objective, part, t - interval 6 hours as t, 0 as n, 0 as bad  -- until then nothing was spent
    from counted
    union all
    select objective, part, since as t, 0 as n, 0 as bad
    from ending
),
point as (
    select ending.*, least(told.t, judged) as t, sum(told.n) as n, sum(told.bad) as bad
    from ending
    join told using (objective, part)
    where told.t > since or (told.t = since and told.n = 0)
    group by all
)
select
    objective || if(part = '', '', ' · ' || part) as label,
    goal,
    t,
    1 - sum(bad) over so_far / (all_n * (1 - target)) as left_share,
    1 - (epoch(t) - epoch(since)) / (epoch(until) - epoch(since)) as even_share,
    all_n as n,
    blind_since,
    bad,
    strftime(t at time zone 'UTC', '%d %b %H:%M') as clock,
    lag(t) over (partition by objective, part order by t) as before,
    since as window_from,
    until as window_to
from point
where all_n > 0
window so_far as (partition by objective, part order by t rows unbounded preceding)
order by blind_since is null, budget_left, label, t
