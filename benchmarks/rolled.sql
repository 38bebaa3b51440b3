-- Writes the roll-up of one day from $since on, $hourly requests an hour: log-normal values in some 200 buckets a measure and
-- group, one bucket where a stage took no time.
insert into rollup_minute by name
select
    $since::timestamptz + to_hours(hour) as minute, measure, 's' || (kind % 2) as service, '/' || (kind // 2 % 2) as route,
    'm' || (kind // 4 % 2) as model, 't' || (kind // 8) as tenant, 'ok' as outcome,
    if(idle, -32768, 330 + bucket)::integer as bucket,
    if(idle, $hourly / 24, $hourly / 24 * density)::bigint as n,
    (n * if(idle, 0, pow(1.02, 330 + bucket)))::decimal(18, 3) as total_ms
from range(24) as hours(hour)
cross join range(24) as kinds(kind)
cross join (
    select
        unnest([
            'total_ms', 'ttft_ms', 'usable_ms', 'final_ms', 'network_ms', 'queue_ms', 'retrieval_ms', 'prompt_ms', 'prefill_ms',
            'decode_ms', 'tools_ms', 'post_ms', 'other_ms'
        ]) as measure,
        measure in ('tools_ms', 'post_ms', 'queue_ms') as idle
)
cross join (
    select bucket, exp(-bucket * bucket / 3200.0) / 100 as density from range(-120, 121) as buckets(bucket)
)
where (not idle or bucket = 0) and n > 0
order by measure, minute
