-- How requests of the last day ended
select outcome, count(*) as n, median(total_ms) as p50_ms
from requests
where started >= since('1d') and not synthetic
group by all
order by n desc
