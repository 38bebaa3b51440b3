-- One 64-bit key a span of the batch, in its order.
select hash(trace_id::UUID, span_id) as key
from batch_spans
