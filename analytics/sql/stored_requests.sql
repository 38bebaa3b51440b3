-- One row: how many requests of a window are stored, the oldest that is at all, and from when on there are at most $rows.
select
    count(*) as n,
    (select min(started) from requests) as oldest,
    (select min(minute) from rollup_minute) as oldest_rollup,
    (select started from requests where started < $to_ts::timestamptz order by started desc limit 1 offset $rows) as exact_after
from requests
where started >= $from_ts::timestamptz
    and started < $to_ts::timestamptz;
