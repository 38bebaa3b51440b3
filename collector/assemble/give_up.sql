-- Takes the ripe traces off the list and counts their spans as not assembled.
insert into ingest_health by name
select date_trunc('minute', $now::timestamptz) as minute, service, 'traces' as signal, 'not_assembled' as reason, count(*) as n
from spans_open
where trace_id in (select trace_id from ripe)
group by service;

delete from dirty
where trace_id in (select trace_id from ripe)
