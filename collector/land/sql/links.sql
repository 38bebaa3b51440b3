-- One row a link of a span that lands.
insert into span_links by name
select trace_id::UUID as trace_id,
       span_id,
       linked_trace_id::UUID as linked_trace_id,
       linked_span_id,
       attrs::JSON as attrs
from batch_links
