-- One row a model call of one request, in order, duplicates joined; told_by names the instrumentations whose spans became it.
with call as (
    select *
    from calls
    where trace_id = $trace_id::uuid
        and request_id = $request_id
),
member as (
    select trace_id, span_id, unnest(spans) as id, started
    from call
),
teller as (  -- an engine's span may stand in a trace of its own
    select
        member.trace_id, member.span_id,
        array_to_string(list_sort(list(distinct concat_ws(': ', spans.service, coalesce(spans.scope, spans.name)))), ', ') as told_by
    from member
    join spans
        on spans.span_id = member.id
        and spans.started > (select min(started) from call) - interval 1 hour
        and spans.started < (select max(started) from call) + interval 1 hour
    group by all
)
select
    model,
    outcome,
    told_by,
    total_ms,
    ttft_ms,
    tpot_ms,
    input_tokens,
    cached_tokens,
    output_tokens,
    attempts,
    stalls,
    max_gap_ms,
    consumer_ms,
    finish_reason,
    server_address,
    len(spans) as spans
from call
left join teller using (trace_id, span_id)
order by started, span_id
