-- Routes with a system prompt of more than 1,000 tokens, prompts of which tool schemas or JSON are more than half, or input tokens whose
-- p95 grew by a quarter within a week.
create or replace macro found_prompt_bloat(from_t, to_t, system_tokens := 1000, growth := 1.25, filler_share := 0.5, fewest := 20) as table
with prompt as (
    select
        requests.service, requests.route, five_minutes(requests.started) as since, calls.prefill_ms, calls.input_tokens,
        try_cast(spans.attrs->>'$."slo.prompt.tokens"' as double) as tokens,
        try_cast(spans.attrs->>'$."slo.prompt.share.system"' as double) as system_share,
        try_cast(spans.attrs->>'$."slo.prompt.share.tools"' as double) as tools_share,
        try_cast(spans.attrs->>'$."slo.prompt.json_bytes"' as double) / 4 as json_tokens  -- about four bytes a token
    from calls
    join requests using (trace_id, request_id)
    join spans on spans.trace_id = calls.trace_id and spans.span_id = calls.span_id
    where requests.started >= from_t::timestamptz and requests.started < to_t::timestamptz and not requests.synthetic
        and calls.started >= from_t::timestamptz and spans.started >= from_t::timestamptz
),
now_told as (
    select
        service, route, since, count(*) as n, median(tokens * system_share) as system_tokens_now,
        median(greatest(tools_share, json_tokens / nullif(tokens, 0))) as filler, quantile_cont(input_tokens, 0.95) as input_p95,
        median(nullif(prefill_ms, 0) / nullif(input_tokens, 0)) as ms_a_token  -- of an answer that is no stream nobody tells
    from prompt
    group by all
    having count(*) >= fewest
),
week_ago as (
    select requests.service, requests.route, quantile_cont(calls.input_tokens, 0.95) as input_p95
    from calls
    join requests using (trace_id, request_id)
    where requests.started >= from_t::timestamptz - interval 7 days and requests.started < to_t::timestamptz - interval 7 days
        and not requests.synthetic and calls.started >= from_t::timestamptz - interval 7 days
    group by all
    having count(*) >= fewest
),
compared as (
    select now_told.*, week_ago.input_p95 as input_p95_before
    from now_told
    left join week_ago
        on week_ago.service is not distinct from now_told.service and week_ago.route is not distinct from now_told.route
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'ticket' as severity,
    to_json({
        'n': n, 'system_tokens': system_tokens_now, 'tools_or_json_share': filler, 'input_p95': input_p95,
        'input_p95_a_week_ago': input_p95_before, 'ms_a_token': ms_a_token
    }) as evidence,
    format('shorten the system prompt or the tools of {}, or put what stays the same first so that it is cached', route)
        || coalesce(format(': {:.0f} ms for each 1,000 tokens', 1000 * ms_a_token), '') as advice
from compared
where system_tokens_now > system_tokens or filler > filler_share or input_p95 > growth * input_p95_before;

-- One row a finding of the last hour: a route whose prompts are too long.
create or replace view diag_prompt_bloat as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_prompt_bloat(now() - interval 1 hour, now());
