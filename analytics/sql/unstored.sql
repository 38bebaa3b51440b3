-- One row a sender, signal and reason: what was not stored as it came, the most first.
select
    service,
    signal,
    reason,
    sum(n)::bigint as n,
    max(minute) as last_minute
from ingest_health
where minute >= $from_ts::timestamptz
    and minute < $to_ts::timestamptz
    and reason not in ('accepted', 'expired', 'max_disk')  -- what was stored, and what retention ended later
group by service, signal, reason
order by n desc, service nulls last, signal, reason
