-- One row a trace to assemble now: its root is there, was there before, or nothing came for ten seconds.
create or replace temp table ripe as
select trace_id
from dirty
where root_seen
   or last_arrival <= $now - interval 10 second
   or trace_id in (select trace_id from rooted)
order by since, trace_id
limit $traces
