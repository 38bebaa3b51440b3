-- Gives a call what it lacks from the call of the service behind that it reached.
update call
set server_ttft_ns = coalesce(call.server_ttft_ns, member.ttft_ns),
    model = coalesce(call.model, member.model),
    provider = coalesce(call.provider, member.provider),
    response_id = coalesce(call.response_id, member.response_id),
    input_tokens = coalesce(call.input_tokens, member.input_tokens),
    output_tokens = coalesce(call.output_tokens, member.output_tokens),
    cached_tokens = coalesce(call.cached_tokens, member.cached_tokens)
from member
where member.rowid = call.behind
