-- Whether spans of a ripe trace may lie in sealed files: it reaches back to them, or its root is not among the others.
select count(*) as traces
from (
    select trace_id
    from member
    join (select epoch_ns(max(last)) as until_ns from sealed_files where "view" = 'spans') as sealed
      on start_ns < until_ns or until_ns > start_ns - 86_400_000_000_000
    group by trace_id
    having min(start_ns) < any_value(until_ns) or count(*) filter (where parent_span_id is null) = 0
)
