-- One row an event of a span that lands.
insert into span_events_open by name
select trace_id,
       span_id,
       name,
       make_timestamptz(t_ns // 1000) as t,
       t_ns,
       attrs::JSON as attrs
from batch_events
