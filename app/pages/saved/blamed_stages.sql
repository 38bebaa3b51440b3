-- Stages to blame, by tenant
select over_stage, tenant, count(*) as n, median(over_ms) as over_p50_ms
from violations
where started >= since('1d')
group by all
order by n desc
