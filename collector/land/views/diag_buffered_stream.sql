-- Routes whose first byte goes out more than 500 ms, and twice as late, after the model's first token: something holds the stream back.
create or replace macro found_buffered_stream(from_t, to_t, late_ms := 500, late_factor := 2, fewest := 20) as table
with sent as (
    select
        requests.service, requests.route, requests.started, requests.ttft_ms,
        try_cast(spans.attrs->>'$."slo.http.time_to_first_byte"' as double) * 1e3 as first_byte_ms
    from requests
    join spans on spans.trace_id = requests.trace_id and spans.span_id = requests.span_id
    where requests.started >= from_t::timestamptz and requests.started < to_t::timestamptz and not requests.synthetic
        and spans.started >= from_t::timestamptz and spans.started < to_t::timestamptz
        and requests.ttft_ms is not null
        -- Asked of what was joined: else the text of each span is searched before, most of which are no request's.
        and if(spans.span_id = requests.span_id, contains(spans.attrs::varchar, '"slo.http.time_to_first_byte"'), false)
),
held as (
    select
        service, route, five_minutes(started) as since, count(*) as n, median(first_byte_ms) as first_byte_ms, median(ttft_ms) as ttft_ms,
        median(first_byte_ms - ttft_ms) as held_ms
    from sent
    group by all
    having count(*) >= fewest
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'route': route}) as scope,
    'ticket' as severity,
    to_json({'n': n, 'first_byte_ms': first_byte_ms, 'ttft_ms': ttft_ms, 'held_ms': held_ms}) as evidence,
    format(
        'send each chunk of {} as it comes (StreamingResponse; no compression or buffering middleware): {:.0f} ms to the first word',
        route, held_ms
    ) as advice
from held
where held_ms > late_ms and first_byte_ms > late_factor * ttft_ms;

-- One row a finding of the last hour: a route that holds its stream back.
create or replace view diag_buffered_stream as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_buffered_stream(now() - interval 1 hour, now());
