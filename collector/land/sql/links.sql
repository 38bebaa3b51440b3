-- One row a link of a span that lands.
insert into span_links_open by name
select link.trace_id,
       link.span_id,
       linked_trace_id,
       linked_span_id,
       link.attrs::JSON as attrs,
       make_timestamptz(span.start_ns // 1000) as started
from batch_links as link
join batch_spans as span using (trace_id, span_id)
