-- One row a GPU: how busy, how fast and how hot it was.
select
    host, gpu, avg(util) as util_mean, max(mem_used_bytes) / 1e9 as memory_gb, min(sm_mhz) as sm_mhz_least,
    median(sm_mhz) as sm_mhz_median, max(power_w) as power_w_most, max(temp_c) as temp_c_most,
    count_if(coalesce(throttle, 0) <> 0) / count(*) as throttled_share
from gpu
where sampled_at >= $from_ts::timestamptz and sampled_at < $to_ts::timestamptz
group by host, gpu
order by host, gpu
