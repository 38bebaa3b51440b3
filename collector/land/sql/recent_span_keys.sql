-- One 64-bit key a span that is not sealed and landed in the time $kept before the last body, of the last $most: rows lie in
-- the order in which they landed. However long nothing ran, the journal may hold the rest of a body whose first spans landed.
select hash(trace_id, span_id) as key
from spans_open
offset (select greatest((select count(*) from spans_open) - least(coalesce(sum(bodies.spans), 0), $most), 0)::BIGINT
        from bodies
        where landed >= (select least($now::TIMESTAMPTZ, max(landed)) from bodies) - $kept::INTERVAL)
