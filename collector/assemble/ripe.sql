-- One row a trace to assemble now: its root is there, was there before, or nothing came for ten seconds and no request in it
-- is known to run; and between which nanoseconds its spans lie, as far as is known.
create or replace temp table ripe as
select
    dirty.trace_id,
    least(dirty.first_ns, trace_state.first_ns) as first_ns, greatest(dirty.last_ns, trace_state.last_ns) as last_ns,
    case
        when dirty.first_ns is null then 4000000000000000000      -- marked dirty by an earlier version
        when trace_state.trace_id is not null then 0
        when dirty.root_seen then 60000000000                     -- the clocks of other hosts
        else 3600000000000                                        -- the rest may have been assembled long ago
    end as margin_ns
from dirty
left join trace_state on trace_state.trace_id = dirty.trace_id
where dirty.root_seen
   or dirty.last_arrival <= $now - interval 10 second and dirty.trace_id not in (select trace_id from live where outcome is null)
   or trace_state.root_seen
order by dirty.since, dirty.trace_id
limit $traces
