-- Calls on the critical path that answer with up to 16 tokens on the model of the main answer, such as routers and classifiers.
create or replace macro found_oversized_model(from_t, to_t, small_tokens := 16, fewest := 20) as table
with call as (
    select
        requests.service, requests.route, five_minutes(requests.started) as since, calls.model, calls.output_tokens, calls.total_ms,
        (calls.trace_id, calls.span_id) in (
            select trace_id, span_id
            from stage_spans
            where started >= from_t::timestamptz and critical_ms > 0
        ) as on_path,
        arg_max(calls.model, calls.output_tokens) over main as main_model,
        max(calls.output_tokens) over main as main_tokens
    from calls
    join requests using (trace_id, request_id)
    where requests.started >= from_t::timestamptz and requests.started < to_t::timestamptz and not requests.synthetic
        and calls.started >= from_t::timestamptz
    window main as (partition by calls.trace_id, calls.request_id)
),
short_answer as (
    select service, route, model, since, count(*) as n, median(output_tokens) as tokens, median(total_ms) as ms
    from call
    where on_path and output_tokens <= small_tokens and main_tokens > small_tokens and model = main_model
    group by all
    having count(*) >= fewest
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'route': route, 'model': model}) as scope,
    'ticket' as severity,
    to_json({'n': n, 'median_tokens': tokens, 'median_ms': ms}) as evidence,
    format('ask a smaller model than {} for these answers of {:.0f} tokens: up to {:.0f} ms a call', model, tokens, ms) as advice
from short_answer;

-- One row a finding of the last hour: a short answer from the large model, on the critical path.
create or replace view diag_oversized_model as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_oversized_model(now() - interval 1 hour, now());
