-- First calls of a server, or after 10 idle minutes, that took 3 times the warm median to their first token; and loads of a model,
-- tokenizer or index within a request. A first call is one without any in the day before.
create or replace macro found_cold_start(from_t, to_t, idle_s := 600, cold_factor := 3, fewest := 5) as table
with call as (
    select
        coalesce(server_address, provider) as server, model, started, trace_id, request_id, ttft_ms,
        lag(started + to_microseconds((total_ms * 1e3)::bigint)) over (
            partition by coalesce(server_address, provider), model order by started
        ) as before_t
    from calls
    where started >= from_t::timestamptz - interval 1 day and started < to_t::timestamptz and ttft_ms is not null
),
warm as (
    select server, model, median(ttft_ms) as warm_ms
    from call
    where before_t is not null and epoch(started) - epoch(before_t) <= idle_s
    group by all
    having count(*) >= fewest
),
cold as (
    select call.*, warm_ms
    from call
    join warm on warm.server is not distinct from call.server and warm.model is not distinct from call.model
    where started >= from_t::timestamptz
        and (before_t is null or epoch(started) - epoch(before_t) > idle_s)
        and ttft_ms >= cold_factor * warm_ms
),
loading as (
    select spans.service, spans.name, five_minutes(spans.started) as since, count(*) as n, median(duration_ns / 1e6) as load_ms
    from spans
    join requests on requests.trace_id = spans.trace_id and requests.span_id <> spans.span_id
    where spans.started >= from_t::timestamptz and spans.started < to_t::timestamptz
        and requests.started >= from_t::timestamptz - interval 1 hour
        and regexp_matches(lower(spans.name), '\b(load|loading|warm ?up|download)\b.*\b(model|tokenizer|index|weights)\b')
    group by all
)
select
    started as found_at,
    to_json({'server': server, 'model': model}) as scope,
    'ticket' as severity,
    to_json({'request_id': request_id, 'trace_id': trace_id, 'ttft_ms': ttft_ms, 'warm_ms': warm_ms, 'idle_since': strftime(before_t at time zone 'UTC', '%Y-%m-%d %H:%M:%S+00')}) as evidence,
    format(
        'call {} once at start and every {} s while idle: a cold first token comes {:.0f} ms later', server, idle_s, ttft_ms - warm_ms
    ) as advice
from cold
union all
select
    least(since + interval 5 minutes, to_t::timestamptz),
    to_json({'service': service, 'span': name}),
    'ticket',
    to_json({'n': n, 'load_ms': load_ms}),
    format('do {} at start, before the first request: {:.0f} ms of {} requests', name, load_ms, n)
from loading;

-- One row a finding of the last hour: a server or a request that started cold.
create or replace view diag_cold_start as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_cold_start(now() - interval 1 hour, now());
