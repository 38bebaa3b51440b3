-- One row a service: what it sent of each signal, and how old it was when it landed, spans where it sends them.
select
    service,
    coalesce(sum(n) filter (where signal = 'traces'), 0)::bigint as spans,
    coalesce(sum(n) filter (where signal = 'metrics'), 0)::bigint as points,
    coalesce(sum(n) filter (where signal = 'logs'), 0)::bigint as records,
    coalesce(
        sum(lag_sum_s) filter (where signal = 'traces')
            / nullif(sum(n) filter (where signal = 'traces' and lag_sum_s is not null), 0),
        sum(lag_sum_s) / nullif(sum(n) filter (where lag_sum_s is not null), 0)
    ) as lag_s,
    coalesce(max(lag_max_s) filter (where signal = 'traces'), max(lag_max_s)) as longest_lag_s,
    max(minute) as last_minute
from ingest_health
where minute >= $from_ts::timestamptz
    and minute < $to_ts::timestamptz
    and reason = 'accepted'
group by service
order by service nulls last
