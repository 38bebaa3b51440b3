-- One row a trace touched by this batch.
insert into dirty by name
select trace_id,
       $now::TIMESTAMPTZ as since,
       $now::TIMESTAMPTZ as last_arrival,
       bool_or(parent_span_id is null) as root_seen,
       min(start_ns) as first_ns,
       max(end_ns) as last_ns
from batch_spans
group by all
on conflict do update set last_arrival = excluded.last_arrival,
                          root_seen = dirty.root_seen or excluded.root_seen,
                          first_ns = least(dirty.first_ns, excluded.first_ns),
                          last_ns = greatest(dirty.last_ns, excluded.last_ns)
