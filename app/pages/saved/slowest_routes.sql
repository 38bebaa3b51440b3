-- Routes by p95
select route, count(*) as n, quantile_cont(total_ms, 0.95) as p95_ms
from requests
where not synthetic
group by all
order by p95_ms desc
