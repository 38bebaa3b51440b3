-- One row an event that counts for one objective: t, part (the value of what the budget is kept apart by, else empty), bad,
-- weight (requests that it stands for), running (it has not ended, and is over a limit already).
-- The words in braces stand for expressions made from the objective, whose conditions were checked when it was read; the last
-- for running.sql.
select
    started as t,
    coalesce(({part})::varchar, '') as part,
    ({bad}) as bad,
    coalesce(weight, 1) as weight,
    false as running
from requests
where started >= $events_from::timestamptz
    and started < $to_ts::timestamptz
    and not synthetic
    and ({where})
    and ({counts})
union all
select * from ({running}) where t >= $events_from::timestamptz and t < $to_ts::timestamptz
