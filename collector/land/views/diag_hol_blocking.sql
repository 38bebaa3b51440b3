-- Prompts 8 times the median while whose prefill 3 or more other calls of the server took twice their usual time: to the first token,
-- or, once they stream, from one chunk to the next. Calls after it were as fast as before.
create or replace macro found_hol_blocking(from_t, to_t, prompt_factor := 8, least_others := 3, slow_factor := 2, fewest := 20) as table
with call as (
    select
        coalesce(server_address, provider) as server, model, trace_id, span_id, request_id, started, input_tokens, ttft_ms, max_gap_ms,
        started + to_microseconds((coalesce(ttft_ms, total_ms) * 1e3)::bigint) as prefilled,
        started + to_microseconds((total_ms * 1e3)::bigint) as ended,
        five_minutes(started) as since
    from calls
    where started >= from_t::timestamptz - interval 5 minutes and started < to_t::timestamptz
        and input_tokens > 0 and ttft_ms is not null
),
usual as (
    select
        server, model, since, median(input_tokens) as usual_tokens, median(ttft_ms) as usual_ms, median(max_gap_ms) as usual_gap_ms
    from call
    group by all
    having count(*) >= fewest
),
culprit as (
    select call.*, usual_tokens, usual_ms, usual_gap_ms
    from call
    join usual using (server, model, since)
    where input_tokens >= prompt_factor * usual_tokens and started >= from_t::timestamptz
),
other as (
    select
        culprit.*, beside.trace_id as other_trace_id, beside.span_id as other_span_id, beside.prefilled as other_prefilled,
        beside.ttft_ms as other_ms, beside.max_gap_ms as other_gap_ms,
        beside.started < culprit.prefilled and beside.prefilled > culprit.started as beside_it,
        beside.prefilled <= culprit.started as streamed,
        beside.started >= culprit.prefilled as after_it
    from culprit
    join call as beside
        on beside.server is not distinct from culprit.server and beside.model is not distinct from culprit.model
        and beside.span_id <> culprit.span_id and beside.input_tokens < prompt_factor * usual_tokens / 2
        and beside.ended > culprit.started
        and beside.started < culprit.prefilled + interval 1 minute
),
gap as (  -- of streams beside a culprit, and when it was over since the first token
    select trace_id, span_id, gap_us, sum(gap_us) over (partition by trace_id, span_id order by place) as over_us
    from (
        select trace_id, span_id, unnest(gaps_us) as gap_us, unnest(range(len(gaps_us))) as place
        from streams
        where side = 'client' and started >= from_t::timestamptz - interval 5 minutes and started < to_t::timestamptz
            and (trace_id, span_id) in (select other_trace_id, other_span_id from other where streamed)
    )
),
still as (  -- how long a stream stood still while a culprit was computed
    select other.trace_id, other.request_id, other_trace_id, other_span_id, max(gap_us) / 1e3 as still_ms
    from other
    join gap on gap.trace_id = other_trace_id and gap.span_id = other_span_id
    where streamed
        and other_prefilled + to_microseconds(over_us::bigint) > started
        and other_prefilled + to_microseconds((over_us - gap_us)::bigint) < prefilled
    group by all
),
counted as (
    select
        server, model, trace_id, request_id, prefilled, input_tokens, usual_tokens, usual_ms, usual_gap_ms,
        count(*) filter (where beside_it and other_ms >= slow_factor * usual_ms) as waited,
        median(other_ms) filter (where beside_it) as during_ms,
        median(other_ms) filter (where after_it) as after_ms,
        count(*) filter (where still_ms >= slow_factor * usual_gap_ms) as stood_still,
        median(still_ms) as gap_during_ms,
        median(other_gap_ms) filter (where after_it) as gap_after_ms
    from other
    left join still using (trace_id, request_id, other_trace_id, other_span_id)
    group by all
),
blocked as (
    select
        *,
        waited >= least_others and during_ms >= slow_factor * usual_ms and after_ms < slow_factor * usual_ms as firsts,
        stood_still >= least_others and gap_during_ms >= slow_factor * usual_gap_ms
            and gap_after_ms < slow_factor * usual_gap_ms as gaps
    from counted
)
select
    prefilled as found_at,
    to_json({'server': server, 'model': model}) as scope,
    'ticket' as severity,
    to_json({
        'request_id': request_id, 'trace_id': trace_id, 'input_tokens': input_tokens, 'median_tokens': usual_tokens,
        'others': if(gaps, stood_still, waited), 'ttft_during_ms': during_ms, 'ttft_after_ms': after_ms,
        'gap_during_ms': gap_during_ms, 'gap_after_ms': gap_after_ms,
        'saved_ms': if(gaps, gap_during_ms - usual_gap_ms, during_ms - usual_ms)
    }) as evidence,
    if(
        gaps,
        format('turn on chunked prefill on {}, or lower its chunk (max_num_batched_tokens): ', server)
            || format('{} streams would stand still for {:.0f} ms less', stood_still, gap_during_ms - usual_gap_ms),
        format('let short prompts pass long ones on {} (long_prefill_token_threshold), or send those over {:.0f} tokens elsewhere: ',
            server, prompt_factor * usual_tokens)
            || format('{} others would save {:.0f} ms each', waited, during_ms - usual_ms)
    ) as advice
from blocked
where gaps or firsts;

-- One row a finding of the last hour: a long prompt behind which others waited.
create or replace view diag_hol_blocking as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_hol_blocking(now() - interval 1 hour, now());
