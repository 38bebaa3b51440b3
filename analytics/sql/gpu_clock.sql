-- One row a GPU and bucket of time: its lowest and mean clock, and whether anything throttled it.
select
    time_bucket(to_seconds($bucket_s), sampled_at) as t,
    time_bucket(to_seconds($bucket_s), sampled_at) + to_seconds($bucket_s) as t2,
    host || ' ' || gpu as gpu,
    min(sm_mhz) as sm_min_mhz,
    avg(sm_mhz) as sm_mean_mhz,
    bit_or(throttle) as throttle,
    count(*) as n,
    $from_ts::timestamptz as window_from,
    $to_ts::timestamptz as window_to
from gpu
where sampled_at >= $from_ts::timestamptz
    and sampled_at < $to_ts::timestamptz
group by all
order by gpu, t;
