-- One row a stored span of a ripe trace, without what only a reader of spans wants.
create or replace temp table member as
select * exclude (attrs, started, duration_ns)
from spans
where trace_id in (select trace_id from ripe)
