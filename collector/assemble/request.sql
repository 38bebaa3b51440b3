-- One row a request of the ripe traces, with the same columns as the table `requests` except what is over.
create or replace temp table request as
with working as (
    select
        req,
        bool_or(
            (kept or role = 'twin')
            and (role in ('call', 'engine', 'twin') or i <> req and stage in ('retrieval', 'tools') or i = req and root_kind = 'slo')
        ) as works,
        bool_or(role = 'call' and serves is not null) as behind  -- a gateway's part in the request of another trace
    from walk
    where req is not null
    group by req
),
root as (
    select
        walk.i as req, walk.trace_id, walk.span_id, walk.cs, walk.ce, walk.root_kind,
        coalesce(nullif(member.request, 'true'), member.route, member.name) as said_route,
        member.service, member.name, member.request, member.request_ref, member.tenant, member.conversation_id, member.outcome,
        member.synthetic, member.budgets, member.role, member.status, member.status_code, member.status_message, member.error,
        member.ttft_ns, member.usable_ns, member.usable_source, member.final_ns, member.fallback,
        resources.version, resources.region
    from walk
    join working on working.req = walk.i
    left join member on member.rowid = walk.m
    left join resources on resources.resource_id = member.resource_id
    where works
       or not behind and walk.role <> 'network' and exists (
           select 1
           from served
           where served.service is not distinct from member.service
             and served.route = coalesce(nullif(member.request, 'true'), member.route, member.name)
       )
),
stage_ns as (
    pivot (select req, stage, b - a as ns from piece where critical)
    on stage in ('network', 'queue', 'retrieval', 'prompt', 'prefill', 'decode', 'tools', 'post', 'other')
    using coalesce(sum(ns), 0)
    group by req
),
last_piece as (
    select req, arg_max(stage, (b, a)) as stage from piece where critical and stage <> 'other' group by req
),
skew as (
    select req, max(abs(shift)) as ns from walk where kept and shift <> 0 group by req
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
counted as (
    select
        call.req,
        count(*) as calls, try_cast(sum(attempts) as bigint) as attempts, try_cast(sum(call.input_tokens) as bigint) as input_tokens,
        try_cast(sum(call.output_tokens) as bigint) as output_tokens, try_cast(sum(call.cached_tokens) as bigint) as cached_tokens,
        arg_max(call.model, (call.us, call.i)) as model,
        arg_max(call.outcome, (call.ue, call.i)) as outcome,
        max(call.ue) as ue,
        max(greatest(coalesce(call.output_tokens, 0), coalesce(member.chunks, 0))) as seen,
        bool_or(call.fallback) as fallback
    from call
    join member on member.rowid = call.m
    where call.req is not null
    group by call.req
),
streamed as (  -- the last streamed call on the path: of a planner's first token nobody sees anything
    select
        call.req,
        arg_max(call.model, (call.us, call.i)) as model,
        arg_max(call.us + call.ttft_ns, (call.us, call.i)) as first_token,
        arg_max(call.us + member.usable_ns, (call.us, call.i)) as usable,
        arg_max(call.output_tokens, (call.us, call.i)) as output_tokens,
        max(coalesce(call.us + member.final_ns, call.ue)) as final
    from call
    join member on member.rowid = call.m
    where call.i in (select i from path) and (call.stream or call.ttft_ns is not null)
    group by call.req
),
said as (
    select
        root.*, stage_ns.* exclude (req), skew.ns as skew_ns, coalesce(round.rounds, 0) as tool_rounds,
        coalesce(counted.calls, 0) as calls, counted.attempts as call_attempts, counted.input_tokens as call_input_tokens,
        counted.output_tokens as call_output_tokens, counted.cached_tokens as call_cached_tokens,
        coalesce(streamed.model, counted.model) as call_model, counted.fallback as call_fallback,
        coalesce(if(root.role = 'call', null, root.ttft_ns), streamed.first_token - root.cs) as first_token_ns,
        coalesce(if(root.role = 'call', null, root.final_ns), streamed.final - root.cs) as last_token_ns,
        coalesce(root.usable_ns, streamed.usable - root.cs) as first_usable_ns,
        streamed.req is null or streamed.output_tokens < 20 as usable_is_final,
        last_piece.stage as last_stage,
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
    join stage_ns on stage_ns.req = root.req
    left join skew on skew.req = root.req
    left join round on round.req = root.req
    left join counted on counted.req = root.req
    left join streamed on streamed.req = root.req
    left join last_piece on last_piece.req = root.req
)
select
    req,
    coalesce(request_ref, lower(printf('%016x', span_id))) as request_id,
    trace_id, span_id, make_timestamptz(cs // 1000) as started, service,
    said_route as route, tenant, call_model as model, version, region, conversation_id,
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
    calls, tool_rounds, call_attempts as attempts, call_input_tokens as input_tokens, call_output_tokens as output_tokens,
    call_cached_tokens as cached_tokens,
    case when call_input_tokens > 0 then try_cast(pow(2, ceil(log2(call_input_tokens))) as bigint) end as prompt_bucket,
    budgets['total'] as budget_ms, skew_ns / 1e6 as skew_ms, root_kind,
    null::double as cost_usd, coalesce(fallback, call_fallback) as fallback, null as feedback, coalesce(synthetic, false) as synthetic,
    budgets
from said
