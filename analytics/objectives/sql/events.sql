-- One row an event that counts for one objective: t, part (the value of what the budget is kept apart by, else empty), bad.
-- The four words in braces stand for expressions made from the objective, whose conditions were checked when it was read.
select
    started as t,
    coalesce(({part})::varchar, '') as part,
    ({bad}) as bad
from requests
where started >= $events_from::timestamptz
    and started < $to_ts::timestamptz
    and not synthetic
    and ({where})
    and ({counts})
