-- What requests that still run will come to; made anew at every start, so that files of earlier versions have it too.

-- One row a request that still runs, of those that are told of: older than their first token should be, or with a stream that stalls.
create or replace view live_streams as
with running as (
    from live where outcome is null
),
seen as (  -- answers of the last six hours on the routes and models that run now
    select
        requests.service, requests.route, calls.model, calls.chunks,
        greatest(requests.total_ms - requests.final_ms, 0) as after_ms
    from calls
    join requests using (trace_id, request_id)
    where calls.started >= now() - interval 6 hours and requests.started >= now() - interval 7 hours
        and calls.outcome = 'ok' and calls.chunks > 1
        and (requests.route, calls.model) in (select route, model from running where chunks is not null)
),
longer as (  -- of these the ones that went on from where each stream is now
    select
        running.trace_id, running.span_id, count(*) as n, median(seen.chunks) - any_value(running.chunks) as chunks_left,
        median(seen.after_ms) as after_ms
    from running
    join seen
        on seen.service is not distinct from running.service and seen.route is not distinct from running.route
        and seen.model = running.model and seen.chunks > running.chunks
    group by all
    having n >= 5
),
paced as (
    select
        running.*, longer.n, longer.chunks_left, longer.after_ms, 1000 * age_s as age_ms,
        case when chunks > 1 then greatest(1000 * age_s - ttft_ms - silence_ms, 0) / (chunks - 1) end as pace_ms
    from running
    left join longer on longer.trace_id = running.trace_id and longer.span_id = running.span_id
),
projected as (
    select *, age_ms + chunks_left * pace_ms + after_ms as projected_ms from paced
)
select
    request_id,       -- slo.request.id, else the span id in hex
    trace_id,         -- its trace
    service,          -- service.name
    route,            -- slo.request
    tenant,           -- slo.tenant
    model,            -- of the stream that it reads, null while it reads none
    stage,            -- what it was doing when last heard of
    started,          -- when it began
    heard,            -- when it was last heard of, within 5 s
    age_ms,           -- how long it had run then
    ttft_ms,          -- first token since it began, null before it
    chunks,           -- with a token so far
    pace_ms,          -- a chunk so far, the silence left out
    silence_ms,       -- since the last chunk
    coalesce(silence_ms > greatest(1000, 8 * usual_gap_ms), false) as stalled, -- the silence is a stall: over a second and 8 times the median gap
    stalls,           -- such gaps so far, this one included
    stall_ms,         -- how long a reader who reads a token in 200 ms has waited for text so far
    n as like_it,     -- answers of the last six hours on this route and model that were longer than it is now
    chunks_left,      -- what it still has to come, by their median; null below five
    projected_ms,     -- its total at its pace so far, with the usual time after the last token; null where it cannot be told
    budget_ms,        -- budget of the total, null when none
    greatest(projected_ms, age_ms) - budget_ms as over_ms -- by how much it will miss it, negative when it will not
from projected;
