-- Routes that run sibling tools or retrievals one after the other, at the cost of a fifth of the request. A span link from one to
-- the other says that it needs its result; a model call between them has seen the first and asked for the second.
create or replace macro found_tool_series(from_t, to_t, request_share := 0.2, fewest := 5) as table
with sibling as (  -- no family of these saves more than all of them would: few traces are left
    select trace_id, parent_span_id, (sum(duration_ns) - max(duration_ns)) / 1e6 as saved_ms
    from spans
    where started >= from_t::timestamptz and started < to_t::timestamptz + interval 5 minutes
        and role = 'stage' and stage in ('tools', 'retrieval') and parent_span_id is not null
    group by trace_id, parent_span_id
    having count(*) >= 2
),
worth as (
    select distinct sibling.trace_id, sibling.parent_span_id
    from sibling
    join requests on requests.trace_id = sibling.trace_id and sibling.saved_ms >= request_share * requests.total_ms
    where requests.started >= from_t::timestamptz and requests.started < to_t::timestamptz and not requests.synthetic
),
step as (
    select
        requests.service, requests.route, requests.request_id, requests.trace_id, requests.started, requests.total_ms,
        spans.parent_span_id, spans.span_id, spans.name, spans.start_ns, spans.end_ns, spans.duration_ns / 1e6 as ms
    from requests
    join spans on spans.trace_id = requests.trace_id
    join worth on worth.trace_id = spans.trace_id and worth.parent_span_id = spans.parent_span_id
    where requests.started >= from_t::timestamptz and requests.started < to_t::timestamptz and not requests.synthetic
        and spans.started >= from_t::timestamptz and spans.started < to_t::timestamptz + interval 5 minutes
        and spans.role = 'stage' and spans.stage in ('tools', 'retrieval')
),
turn as (  -- steps by how many model calls of their trace had ended when they began
    select trace_id, span_id, sum(ended_call) over (partition by trace_id order by at_ns, ended_call desc) as calls_before
    from (
        select trace_id, span_id, start_ns as at_ns, 0 as ended_call
        from step
        union all
        select trace_id, null, end_ns, 1
        from spans
        where started >= from_t::timestamptz and started < to_t::timestamptz + interval 5 minutes and role = 'call'
            and trace_id in (select trace_id from step)
    )
),
linked as (
    select trace_id, span_id
    from span_links
    where started >= from_t::timestamptz and linked_trace_id = trace_id
),
ordered as (
    select
        *, coalesce(start_ns < max(end_ns) over (
            partition by trace_id, request_id, parent_span_id, calls_before order by start_ns, span_id
            rows between unbounded preceding and 1 preceding
        ), false) as beside
    from step
    join turn using (trace_id, span_id)
    where (trace_id, span_id) not in (select trace_id, span_id from linked)
),
family as (
    select
        service, route, request_id, trace_id, started, total_ms, parent_span_id, calls_before, sum(ms) - max(ms) as saved_ms,
        list_sort(list(distinct name)) as names
    from ordered
    group by all
    having count(*) >= 2 and not bool_or(beside) and sum(ms) - max(ms) >= request_share * total_ms
),
route_series as (
    select
        service, route, five_minutes(started) as since, count(distinct request_id) as n, median(saved_ms) as saved_ms,
        median(saved_ms / total_ms) as saved_share, list_slice(list_sort(list_distinct(flatten(list(names)))), 1, 6) as names,
        arg_min(trace_id, started) as trace_id
    from family
    group by all
    having count(distinct request_id) >= fewest
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'ticket' as severity,
    to_json({'n': n, 'saved_ms': saved_ms, 'share_of_request': saved_share, 'spans': names, 'trace_id': trace_id}) as evidence,
    format(
        'run {} of {} at once (fan_out or asyncio.gather): {:.0f} ms a request', array_to_string(names, ', '), route, saved_ms
    ) as advice
from route_series;

-- One row a finding of the last hour: a route that runs tools or retrievals one after the other.
create or replace view diag_tool_series as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_tool_series(now() - interval 1 hour, now());
