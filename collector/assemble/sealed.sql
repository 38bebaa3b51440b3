-- How many ripe traces may have spans in sealed files, since they reach back to them or their root is not among the others,
-- and between which microseconds these would start: up to an hour around, so that few files are read.
select
    count(*) as traces,
    coalesce(min(first_ns) // 1000 - 3_600_000_000, 0) as from_us,
    coalesce(max(last_ns) // 1000 + 3_600_000_000, 0) as to_us
from (
    select trace_id, min(start_ns) as first_ns, max(start_ns) as last_ns
    from member
    join (select epoch_ns(max(last)) as until_ns from sealed_files where "view" = 'spans') as sealed
      on until_ns > start_ns - 3_600_000_000_000
    group by trace_id
    having min(start_ns) <= any_value(until_ns) or count(*) filter (where parent_span_id is null) = 0
)
