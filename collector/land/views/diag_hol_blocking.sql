-- Prompts 8 times the median while whose prefill 3 or more other calls of the server took twice their usual time to the first token,
-- and after which calls were as fast as before.
create or replace macro found_hol_blocking(from_t, to_t, prompt_factor := 8, least_others := 3, slow_factor := 2, fewest := 20) as table
with call as (
    select
        coalesce(server_address, provider) as server, model, trace_id, span_id, request_id, started, input_tokens, ttft_ms,
        started + to_microseconds((coalesce(ttft_ms, total_ms) * 1e3)::bigint) as prefilled,
        five_minutes(started) as since
    from calls
    where started >= from_t::timestamptz - interval 5 minutes and started < to_t::timestamptz
        and input_tokens > 0 and ttft_ms is not null
),
usual as (
    select
        server, model, since, median(input_tokens) as usual_tokens, median(ttft_ms) as usual_ms, count(*) as n
    from call
    group by all
    having count(*) >= fewest
),
culprit as (
    select call.*, usual_tokens, usual_ms
    from call
    join usual using (server, model, since)
    where input_tokens >= prompt_factor * usual_tokens and started >= from_t::timestamptz
),
other as (
    select
        culprit.*, beside.ttft_ms as other_ms,
        beside.started < culprit.prefilled and beside.prefilled > culprit.started as beside_it
    from culprit
    join call as beside
        on beside.server is not distinct from culprit.server and beside.model is not distinct from culprit.model
        and beside.span_id <> culprit.span_id and beside.input_tokens < prompt_factor * usual_tokens / 2
        and beside.prefilled > culprit.started
        and beside.started < culprit.prefilled + interval 1 minute
),
blocked as (
    select
        server, model, trace_id, request_id, prefilled, input_tokens, usual_tokens, usual_ms,
        count(*) filter (where beside_it and other_ms >= slow_factor * usual_ms) as others,
        median(other_ms) filter (where beside_it) as during_ms,
        median(other_ms) filter (where not beside_it) as after_ms
    from other
    group by all
)
select
    prefilled as found_at,
    to_json({'server': server, 'model': model}) as scope,
    'ticket' as severity,
    to_json({
        'request_id': request_id, 'trace_id': trace_id, 'input_tokens': input_tokens, 'median_tokens': usual_tokens, 'others': others,
        'ttft_during_ms': during_ms, 'ttft_after_ms': after_ms
    }) as evidence,
    format(
        'turn on chunked prefill on {} (max_num_batched_tokens), or send prompts over {:.0f} tokens elsewhere: {} others would save {:.0f} ms each',
        server, prompt_factor * usual_tokens, others, during_ms - usual_ms
    ) as advice
from blocked
where others >= least_others and during_ms >= slow_factor * usual_ms and after_ms < slow_factor * usual_ms;

-- One row a finding of the last hour: a long prompt behind which others waited.
create or replace view diag_hol_blocking as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_hol_blocking(now() - interval 1 hour, now());
