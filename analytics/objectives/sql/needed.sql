-- One row: since when events are needed to know the last 20 of each part at $from_ts and later, by what was counted.
select coalesce(min(coalesce(enough, $events_from::timestamptz)), $events_from::timestamptz) as since
from (
    select part, max(minute) filter (where so_far >= 20) as enough
    from (
        select part, minute, sum(n) over (partition by part order by minute desc) as so_far
        from slo_minute
        where objective = $objective and minute >= $events_from::timestamptz and minute < $from_ts::timestamptz - interval 1 minute
    )
    group by part
)
