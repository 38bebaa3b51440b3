-- One row a service: what it sent, and how old its spans were when they landed.
select
    service,
    sum(n)::bigint as n,
    sum(lag_sum_s) / nullif(sum(n) filter (where lag_sum_s is not null), 0) as lag_s,
    max(lag_max_s) as longest_lag_s,
    max(minute) as last_minute
from ingest_health
where minute >= $from_ts::timestamptz
    and minute < $to_ts::timestamptz
    and reason = 'accepted'
group by service
order by service nulls last
