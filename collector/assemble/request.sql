-- One row a request of the ripe traces, with the same columns as the table `requests` except what is over.
create or replace temp table request as
with working as (
    select
        req,
        bool_or(
            (kept or role = 'twin')
            and (role in ('call', 'engine', 'twin') or i <> req and stage in ('retrieval', 'tools') or i = req and root_kind = 'slo')
        ) as works,
        bool_or(role = 'call' and serves is not null) as behind,  -- a gateway's part in the request of another trace
        max(abs(shift)) filter (where kept and shift <> 0) as skew_ns
    from walk
    where req is not null
    group by req
),
sent as (  -- a service that reads no baggage does not repeat what the root of the trace says of who sent the request
    select trace_id, bool_or(synthetic) as synthetic, any_value(run_id) as run_id
    from member
    where parent_span_id is null and (synthetic or run_id is not null)
    group by trace_id
),
root as materialized (
    select
        walk.i as req, walk.trace_id, walk.span_id, walk.cs, walk.ce, walk.root_kind, walk.role = 'call' as is_call, working.skew_ns,
        coalesce(nullif(member.request, 'true'), member.route, member.name) as said_route,
        walk.service, member.request, member.request_ref, member.tenant, member.conversation_id, member.outcome,
        coalesce(member.synthetic, sent.synthetic, false) as synthetic, coalesce(member.run_id, sent.run_id) as run_id,
        member.budgets, member.status, member.status_code, member.status_message, member.error,
        member.ttft_ns, member.usable_ns, member.usable_source, member.final_ns, member.fallback, member.feedback, member.weight,
        resources.version, resources.region
    from walk
    join working on working.req = walk.i
    left join member on member.rowid = walk.m
    left join resources on resources.resource_id = member.resource_id
    left join sent on sent.trace_id = walk.trace_id
    where works
       or not behind and walk.role <> 'network' and (member.service, coalesce(nullif(member.request, 'true'), member.route, member.name))
           in (select (service, route) from served)
),
cut_by_stage as (
    select
        req,
        coalesce(sum(critical_ns) filter (where stage = 'network'), 0)::bigint as network,
        coalesce(sum(critical_ns) filter (where stage = 'queue'), 0)::bigint as queue,
        coalesce(sum(critical_ns) filter (where stage = 'retrieval'), 0)::bigint as retrieval,
        coalesce(sum(critical_ns) filter (where stage = 'prompt'), 0)::bigint as prompt,
        coalesce(sum(critical_ns) filter (where stage = 'prefill'), 0)::bigint as prefill,
        coalesce(sum(critical_ns) filter (where stage = 'decode'), 0)::bigint as decode,
        coalesce(sum(critical_ns) filter (where stage = 'tools'), 0)::bigint as tools,
        coalesce(sum(critical_ns) filter (where stage = 'post'), 0)::bigint as post,
        coalesce(sum(critical_ns) filter (where stage = 'other'), 0)::bigint as other,
        arg_max(stage, last) filter (where stage <> 'other') as last_stage
    from part
    group by req
),
round as (  -- a tool that begins after all earlier ones ended starts a new round
    select req, count(*) filter (where earlier is null or cs >= earlier) as rounds
    from (
        select
            req, cs,
            max(ce) over (partition by req order by cs, ce, i rows between unbounded preceding and 1 preceding) as earlier
        from walk
        where kept and stage = 'tools' and role = 'stage'
    )
    group by req
),
counted as (  -- clocks are those of the last streamed call on the path: of a planner's first token nobody sees anything
    select
        req,
        count(*) as calls, try_cast(sum(attempts) as bigint) as attempts, try_cast(sum(input_tokens) as bigint) as input_tokens,
        try_cast(sum(output_tokens) as bigint) as output_tokens, try_cast(sum(cached_tokens) as bigint) as cached_tokens,
        coalesce(arg_max(model, (us, i)) filter (where streamed and model is not null), arg_max(model, (us, i))) as model,
        arg_max(outcome, (ue, i)) as outcome,
        max(greatest(coalesce(output_tokens, 0), coalesce(chunks, 0))) as seen,
        bool_or(fallback) as call_fallback,
        bool_or(streamed) as streamed,
        arg_max_null(us + ttft_ns, (us, i)) filter (where streamed) as first_token,
        arg_max_null(us + usable_ns, (us, i)) filter (where streamed) as usable,
        arg_max_null(output_tokens, (us, i)) filter (where streamed) as last_output_tokens,
        max(coalesce(us + final_ns, ue)) filter (where streamed) as final
    from (
        select
            call.*, member.attempts, member.chunks, member.fallback, member.usable_ns, member.final_ns,
            coalesce(call.stream, false) or call.ttft_ns is not null as is_stream,
            is_stream and call.i in (select i from path) as streamed
        from call
        join member on member.rowid = call.m
        where call.req is not null
    )
    group by req
),
ended as (
    select
        root.*, cut_by_stage.* exclude (req), coalesce(round.rounds, 0) as tool_rounds,
        coalesce(counted.calls, 0) as calls, counted.* exclude (req, calls, outcome, streamed),
        coalesce(if(root.is_call, null, root.ttft_ns), counted.first_token - root.cs) as first_token_ns,
        coalesce(if(root.is_call, null, root.final_ns), counted.final - root.cs) as last_token_ns,
        coalesce(root.usable_ns, counted.usable - root.cs) as first_usable_ns,
        not coalesce(counted.streamed, false) or counted.last_output_tokens < 20 as usable_is_final,
        case
            when root.outcome is not null then root.outcome
            when root.status_code >= 500 or root.status_code in (408, 429) then 'error'
            when root.status_code >= 400 then 'rejected'
            when counted.outcome = 'stopped' and root.request is not null then 'ok'  -- ours says when the client leaves
            when counted.outcome = 'stopped' then if(coalesce(counted.seen, 0) < 20, 'dropped', 'left')
            when gave_up(root.error) or gave_up(root.status_message) then if(coalesce(counted.seen, 0) < 20, 'dropped', 'left')
            when root.status = 'ERROR' then 'error'
            else coalesce(counted.outcome, 'ok')
        end as ended
    from root
    join cut_by_stage on cut_by_stage.req = root.req
    left join round on round.req = root.req
    left join counted on counted.req = root.req
),
told as (  -- by its users, before it was assembled
    select request_id, feedback_said(arg_max(score, t), arg_max(completed, t), arg_max(converted, t)) as said
    from feedback
    where request_id in (select coalesce(request_ref, lower(printf('%016x', span_id))) from root)
    group by request_id
)
select
    req,
    coalesce(request_ref, lower(printf('%016x', span_id))) as request_id,
    trace_id, span_id, make_timestamptz(cs // 1000) as started, service,
    said_route as route, tenant, model, version, region, conversation_id,
    ended as outcome,
    case when ended in ('dropped', 'left') then last_stage end as left_in_stage,
    case when ended in ('dropped', 'left') then coalesce(last_token_ns, ce - cs) / 1e6 end as left_after_ms,
    (ce - cs) / 1e6 as total_ms,
    first_token_ns / 1e6 as ttft_ms,
    coalesce(first_usable_ns, case when ended = 'ok' and usable_is_final then coalesce(last_token_ns, ce - cs) end) / 1e6 as usable_ms,
    case
        when first_usable_ns is not null then coalesce(usable_source, 'marked')
        when ended = 'ok' and usable_is_final then 'final'
    end as usable_source,
    coalesce(last_token_ns, ce - cs) / 1e6 as final_ms,
    network / 1e6 as network_ms, queue / 1e6 as queue_ms, retrieval / 1e6 as retrieval_ms, prompt / 1e6 as prompt_ms,
    prefill / 1e6 as prefill_ms, decode / 1e6 as decode_ms, tools / 1e6 as tools_ms, post / 1e6 as post_ms,
    other / 1e6 as other_ms,
    calls, tool_rounds, attempts, input_tokens, output_tokens, cached_tokens,
    case when input_tokens > 0 then try_cast(pow(2, ceil(log2(input_tokens))) as bigint) end as prompt_bucket,
    budgets['total'] as budget_ms, budgets['ttft'] as ttft_budget_ms, skew_ns / 1e6 as skew_ms, root_kind,
    cost.usd as cost_usd, coalesce(fallback, call_fallback) as fallback, coalesce(told.said, feedback) as feedback, synthetic, run_id, weight,
    budgets, cs
from ended
left join cost using (req)
left join told on told.request_id = coalesce(request_ref, lower(printf('%016x', span_id)))
