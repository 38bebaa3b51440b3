-- One 64-bit key a span of the batch, in its order.
select hash(trace_id, span_id) as key
from batch_spans
