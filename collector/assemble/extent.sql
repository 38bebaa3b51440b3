-- Between which microseconds the spans of the ripe traces start: rows lie in the order of their arrival, so that a scan
-- leaves out what lies elsewhere.
select
    coalesce(min(greatest(first_ns, 0) - margin_ns) // 1000, -200000000000000000) as from_us,
    coalesce(max(least(last_ns, 4000000000000000000) + margin_ns) // 1000, 9200000000000000) as to_us
from ripe
