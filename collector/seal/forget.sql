-- Deletes the rows of forgotten traces.
delete from {table}
where trace_id in (from forgotten)
