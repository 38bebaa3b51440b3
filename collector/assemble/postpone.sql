-- Moves the ripe traces behind all others.
update dirty
set since = $now
where trace_id in (select trace_id from ripe)
