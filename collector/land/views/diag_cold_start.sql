-- First calls of a server, or after 10 idle minutes, that took 3 times the warm median to their first token; loads of a model,
-- tokenizer or index within a request; and routes whose budgets break most within a minute of an instance's start. A first
-- call is one without any in the day before, or the first that a new instance serves. An instance is a resource; it began
-- when its metrics say so, else with the first that came of it.
create or replace macro found_cold_start(
    from_t, to_t, idle_s := 600, cold_factor := 3, fewest := 5, start_s := 60, start_share := 0.5
) as table
with instance as (
    select resource_id, min(t) as start_t
    from (
        select resource_id, started as t
        from spans
        where started >= from_t::timestamptz - interval 1 hour and started < to_t::timestamptz
        union all
        select resource_id, coalesce(started, t) as t
        from metrics
        where t >= from_t::timestamptz - interval 1 hour and t < to_t::timestamptz
    ) as seen
    group by all
    having min(t) >= from_t::timestamptz
),
served_first as (  -- what a new engine served first
    select resource_id, arg_min(trace_id, started) as trace_id, arg_min(span_id, started) as engine_span_id
    from (
        select spans.resource_id, spans.trace_id, spans.span_id, spans.started
        from spans
        join instance on instance.resource_id = spans.resource_id
        where role = 'engine' and started >= from_t::timestamptz and started < to_t::timestamptz
    ) as served
    group by all
),
first_call as (
    select distinct calls.trace_id as first_trace_id, calls.span_id as first_span_id
    from calls
    join served_first on served_first.trace_id = calls.trace_id
    where list_contains(calls.spans, engine_span_id) and started >= from_t::timestamptz and started < to_t::timestamptz
),
call as (
    select
        coalesce(server_address, provider) as server, model, started, trace_id, request_id, ttft_ms, first_span_id is not null as is_first,
        lag(started + to_microseconds((total_ms * 1e3)::bigint)) over (
            partition by coalesce(server_address, provider), model order by started
        ) as before_t
    from calls
    left join first_call on first_trace_id = trace_id and first_span_id = span_id
    where started >= from_t::timestamptz - interval 1 day and started < to_t::timestamptz and ttft_ms is not null
),
warm as (
    select server, model, median(ttft_ms) as warm_ms
    from call
    where before_t is not null and epoch(started) - epoch(before_t) <= idle_s and not is_first
    group by all
    having count(*) >= fewest
),
cold as (
    select call.*, warm_ms
    from call
    join warm on warm.server is not distinct from call.server and warm.model is not distinct from call.model
    where started >= from_t::timestamptz
        and (is_first or before_t is null or epoch(started) - epoch(before_t) > idle_s)
        and ttft_ms >= cold_factor * warm_ms
),
loading_name as (
    select name
    from spans
    where started >= from_t::timestamptz and started < to_t::timestamptz
    group by name
    -- Of an aggregate, else it is asked of each span before they are grouped, which takes as long as all else of this.
    having regexp_matches(lower(any_value(name)), '\b(load|loading|warm ?up|download)\b.*\b(model|tokenizer|index|weights)\b')
),
loading as (
    select spans.service, spans.name, five_minutes(spans.started) as since, count(*) as n, median(duration_ns / 1e6) as load_ms
    from spans
    join loading_name on loading_name.name = spans.name
    join requests on requests.trace_id = spans.trace_id and requests.span_id <> spans.span_id
    where spans.started >= from_t::timestamptz and spans.started < to_t::timestamptz
        and requests.started >= from_t::timestamptz - interval 1 hour
    group by all
),
fresh as (  -- requests of instances that had just begun
    select requests.trace_id, requests.span_id, requests.service, requests.route, five_minutes(start_t) as since
    from requests
    join spans on spans.trace_id = requests.trace_id and spans.span_id = requests.span_id
    join instance on instance.resource_id = spans.resource_id
    where requests.started >= from_t::timestamptz and requests.started < to_t::timestamptz
        and spans.started >= from_t::timestamptz and spans.started < start_t + to_seconds(start_s)
),
beside as (  -- all requests of these routes within ten minutes
    select
        requests.service, requests.route, began.since, requests.request_id, requests.total_ms,
        fresh.span_id is not null as at_start, violations.request_id is not null as is_over
    from requests
    join (select distinct service, route, since from fresh) as began
        on began.service = requests.service and began.route = requests.route
    left join fresh on fresh.trace_id = requests.trace_id and fresh.span_id = requests.span_id
    left join violations on violations.trace_id = requests.trace_id and violations.request_id = requests.request_id
    where requests.started >= began.since and requests.started < began.since + interval 10 minutes
        and requests.started < to_t::timestamptz and not requests.synthetic
),
starting as (
    select
        service, route, since, count(*) filter (where is_over) as n,
        count(*) filter (where is_over and at_start) as n_at_start, count(*) filter (where at_start) as n_fresh,
        count(*) filter (where not at_start) as n_warm, min(case when is_over and at_start then request_id end) as request_id,
        avg(total_ms) filter (where at_start) - avg(total_ms) filter (where not at_start) as saved_ms
    from beside
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
from loading
union all
select
    least(since + interval 10 minutes, to_t::timestamptz),
    to_json({'service': service, 'route': route}),
    'ticket',
    to_json({
        'request_id': request_id, 'n': n, 'n_at_start': n_at_start, 'share_over_at_start': n_at_start / n_fresh,
        'share_over_later': (n - n_at_start) / n_warm, 'saved_ms': saved_ms
    }),
    format('call {} of {} before an instance says that it is ready: {} of {} requests over their budget came within ', route, service, n_at_start, n)
        || format('{} s of a start, which is {:.0f} ms slower on average', start_s, saved_ms)
from starting
where n_at_start >= fewest and n_warm >= fewest and n_at_start >= start_share * n
    and n_at_start / n_fresh >= 2 * (n - n_at_start) / n_warm;

-- One row a finding of the last hour: a server, an instance or a request that started cold.
create or replace view diag_cold_start as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_cold_start(now() - interval 1 hour, now());
