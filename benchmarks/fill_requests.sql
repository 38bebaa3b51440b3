-- One request a trace of the spans in fill_reads.sql.
insert into requests by name
select span_id::VARCHAR as request_id, trace_id, span_id, started, service, '/chat' as route,
       'tenant-' || hash(span_id) % 50 as tenant, model, 'ok' as outcome, duration_ns / 1e6 as total_ms,
       duration_ns / 4e6 as ttft_ms, 0 as network_ms, 0 as queue_ms, 0 as retrieval_ms, 0 as prompt_ms,
       duration_ns / 4e6 as prefill_ms, duration_ns * 3 / 4e6 as decode_ms, 0 as tools_ms, 0 as post_ms, 0 as other_ms,
       1 as calls, 0 as tool_rounds, input_tokens, false as synthetic
from spans
where parent_span_id is null
