-- Says of lost requests what they were doing when they were last heard of.
update request
set left_in_stage = live.stage, left_after_ms = live.age_s * 1e3
from live
where request.outcome = 'lost' and live.trace_id = request.trace_id and live.span_id = request.span_id
