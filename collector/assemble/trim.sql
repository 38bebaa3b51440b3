-- Leaves to the next tick the traces that go beyond $spans; the first is taken whatever its size.
delete from ripe
where trace_id in (
    select ripe.trace_id
    from ripe
    join (select trace_id, count(*) as spans from member group by trace_id) as size on size.trace_id = ripe.trace_id
    qualify sum(size.spans) over (order by ripe.rowid) > $spans and row_number() over (order by ripe.rowid) > 1
)
