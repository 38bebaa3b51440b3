-- Gives a streamed call the tokens that a later record told of it.
update call
set spans = list_concat(call.spans, ended.span_ids),
    input_tokens = coalesce(mine.input_tokens, ended.input_tokens, call.input_tokens),
    output_tokens = coalesce(mine.output_tokens, ended.output_tokens, call.output_tokens),
    cached_tokens = coalesce(mine.cached_tokens, ended.cached_tokens, call.cached_tokens)
from (
    select
        tail.call as i, max(member.input_tokens) as input_tokens, max(member.output_tokens) as output_tokens,
        max(member.cached_tokens) as cached_tokens, list(node.span_id order by node.s, node.i) as span_ids
    from tail
    join node on node.i = tail.i
    join member on member.rowid = node.m
    group by tail.call
) as ended, member as mine
where ended.i = call.i and mine.rowid = call.m
