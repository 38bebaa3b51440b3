-- What arrived and what was not stored, minute by minute
select minute, service, signal, reason, sum(n)::bigint as n
from ingest_health
where minute >= since('1d')
group by all
order by minute desc, n desc
