-- One row: when the last event was, and whether none since then means that nobody sees any more.
-- Silence counts from 20 times the median gap of the same hour a week before (a day before, where no week is stored),
-- and only where that hour had events. The words in braces stand for events.sql with bounds of its own each.
with last as (
    select max(t) as t from ({lately})
),
before as (
    select t, lag(t) over (order by t) as previous, true as week_ago from ({week})
    union all
    select t, lag(t) over (order by t), false from ({day})
),
usual as (
    select week_ago, median(epoch(t) - epoch(previous)) as gap_s
    from before
    where epoch(t) - epoch(previous) < 3600
    group by week_ago
)
select
    last.t as last_event,
    coalesce(
        epoch($to_ts::timestamptz) - epoch(last.t) > greatest($least_s, 20 * arg_max(usual.gap_s, usual.week_ago))
            and count(usual.gap_s) > 0, false
    ) as blind
from last
left join usual on true
group by last.t
