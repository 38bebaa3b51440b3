-- One row a bucket of time and kind of trouble: how many of the streamed calls that began in it stalled, or waited for a slow reader.
with call as (
    select
        time_bucket(to_seconds($bucket_s), started) as t,
        coalesce(stalls, 0) > 0 as stalled,
        coalesce(consumer_ms > 0.2 * decode_ms, false) as slowly_read,
        max_gap_ms,
        consumer_ms
    from calls
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and stream
        and ($model::varchar is null or model = $model)
),
counted as (
    select
        t,
        'stalled' as kind,
        count(*) as n,
        count(*) filter (where stalled) as troubled,
        max(max_gap_ms) filter (where stalled) as worst_ms
    from call
    group by t
    union all
    select t, 'slow reader', count(*), count(*) filter (where slowly_read), max(consumer_ms) filter (where slowly_read)
    from call
    group by t
)
select
    t,
    t + to_seconds($bucket_s) as t2,
    kind,
    n,
    troubled,
    troubled / n as share,
    worst_ms,
    strftime(t at time zone 'UTC', '%H:%M:%S') as clock,
    $from_ts::timestamptz as window_from,
    $to_ts::timestamptz as window_to
from counted
order by kind desc, t
