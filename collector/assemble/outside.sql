-- Gives a call what it lacks from the nearest of the calls that stand for it, which come before its engine. One that stands
-- for several attempts hands on model and provider alone.
update call
set spans = list_concat(call.spans, outside.span_ids),
    model = coalesce(mine.model, outside.model, call.model),
    provider = coalesce(mine.provider, outside.provider, call.provider),
    response_id = coalesce(mine.response_id, outside.response_id, call.response_id),
    stream = coalesce(mine.stream, outside.stream),
    input_tokens = coalesce(mine.input_tokens, outside.input_tokens, call.input_tokens),
    output_tokens = coalesce(
        call.output_tokens,
        -- of an unfinished stream the outer span may hold a placeholder of one
        case
            when mine.status = 'ERROR' then null
            when coalesce(mine.stream, mine.ttft_ns is not null) and mine.finish_reason is null
                and mine.stream_end is distinct from 'complete' then null
            else outside.output_tokens
        end
    ),
    cached_tokens = coalesce(mine.cached_tokens, outside.cached_tokens, call.cached_tokens),
    call_role = coalesce(mine.call_role, outside.call_role, call.call_role)
from (
    select
        twin.inner_call as i, list(node.span_id order by twin.level, node.i) as span_ids,
        arg_min(member.model, twin.level) as model, arg_min(member.provider, twin.level) as provider,
        arg_min(member.response_id, twin.level) filter (where twin.alone) as response_id,
        arg_min(member.stream, twin.level) filter (where twin.alone) as stream,
        arg_min(member.input_tokens, twin.level) filter (where twin.alone) as input_tokens,
        arg_min(member.output_tokens, twin.level) filter (where twin.alone) as output_tokens,
        arg_min(member.cached_tokens, twin.level) filter (where twin.alone) as cached_tokens,
        arg_min(member.call_role, twin.level) as call_role
    from twin
    join node on node.i = twin.outer_call
    join member on member.rowid = node.m
    group by twin.inner_call
) as outside, member as mine
where outside.i = call.i and mine.rowid = call.m
