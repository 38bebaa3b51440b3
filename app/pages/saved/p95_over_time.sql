-- p95 of each five minutes of the last day
select time_bucket(interval 5 minutes, started) as t, quantile_cont(total_ms, 0.95) as p95_ms, count(*) as n
from requests
where started >= since('1d') and not synthetic
group by all
order by t
