-- One row an alarm that would have fired: a part, a severity, from the end of its first minute to the end of its last.
-- Minutes less than $quiet_min apart are one alarm; `rule` is the one that opened it, of equals the first by name.
ranked as (
    select *, max(long_burn) over (partition by part, severity, minute) as most
    from burn
    where firing
),
firing as (
    select
        part, severity, minute, min(rule) filter (where long_burn = most) as rule, max(long_burn) as burn,
        max(bad) as bad, max(n) as n
    from ranked
    group by part, severity, minute
),
begun as (
    select *, coalesce(
        epoch(minute) - epoch(lag(minute) over (partition by part, severity order by minute)) > 60 * $quiet_min, true
    ) as begins
    from firing
),
numbered as (
    select *, count_if(begins) over (partition by part, severity order by minute) as alarm
    from begun
)
select
    part, severity, arg_min(rule, minute) as rule, min(minute) + interval 1 minute as opened,
    case when max(minute) + to_minutes($quiet_min::bigint) < time_bucket(interval 1 minute, $to_ts::timestamptz)
        then max(minute) + interval 1 minute end as closed,
    max(burn) as burn, max(bad) as bad, max(n) as n
from numbered
group by part, severity, alarm
order by opened, part, severity
