-- Routes with more than 2 rounds of tools at p95, and requests that call one tool twice with the same arguments.
create or replace macro found_agent_loop(from_t, to_t, most_rounds := 2, fewest := 20) as table
with looped as (
    select
        service, route, five_minutes(started) as since, count(*) as n, quantile_cont(tool_rounds, 0.95) as rounds_p95,
        median(total_ms / nullif(tool_rounds, 0)) as round_ms
    from requests
    where started >= from_t::timestamptz and started < to_t::timestamptz and not synthetic
    group by all
    having count(*) >= fewest and quantile_cont(tool_rounds, 0.95) > most_rounds
),
repeated as (
    select
        requests.service, requests.route, requests.started, requests.request_id, requests.trace_id, spans.name,
        count(*) as times, sum(duration_ns) / 1e6 - min(duration_ns) / 1e6 as saved_ms
    from requests
    join spans on spans.trace_id = requests.trace_id
    where requests.started >= from_t::timestamptz and requests.started < to_t::timestamptz and not requests.synthetic
        and spans.started >= from_t::timestamptz and spans.started < to_t::timestamptz + interval 5 minutes
        and spans.stage = 'tools' and spans.attrs->>'$."slo.tool.call_hash"' is not null
    group by requests.service, requests.route, requests.started, requests.request_id, requests.trace_id, spans.name,
        spans.attrs->>'$."slo.tool.call_hash"'
    having count(*) > 1
),
repeated_calls as (
    select
        service, route, name as tool, five_minutes(started) as since, count(distinct request_id) as n, max(times) as times,
        median(saved_ms) as saved_ms, arg_min(trace_id, started) as trace_id
    from repeated
    group by all
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'ticket' as severity,
    to_json({'n': n, 'tool_rounds_p95': rounds_p95, 'round_ms': round_ms}) as evidence,
    format('give {} a budget of tool_rounds: each round less saves about {:.0f} ms', route, round_ms) as advice
from looped
union all
select
    least(since + interval 5 minutes, to_t::timestamptz),
    to_json({'service': service, 'route': route, 'tool': tool}),
    'ticket',
    to_json({'requests': n, 'times': times, 'saved_ms': saved_ms, 'trace_id': trace_id}),
    format('remember what {} answered to the same arguments (OutputCache): {:.0f} ms a request', tool, saved_ms)
from repeated_calls;

-- One row a finding of the last hour: a route whose agent goes round too often, or repeats itself.
create or replace view diag_agent_loop as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_agent_loop(now() - interval 1 hour, now());
