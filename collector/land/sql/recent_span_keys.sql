-- One 64-bit key a span that landed since $since and is not sealed, of the last $most: rows lie in the order in which
-- they landed.
select hash(trace_id, span_id) as key
from spans_open
offset (select greatest((select count(*) from spans_open) - least(coalesce(sum(bodies.spans), 0), $most), 0)::BIGINT
        from bodies
        where landed >= $since)
