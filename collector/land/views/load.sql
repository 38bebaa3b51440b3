-- Load runs, from what `tailbudget load` sends. The comment above a view and behind the columns of its last select become
-- its `comment on` in the database.

-- One row a request of a load run, on the clock of the client that sent it. `requests` has what its service said, with the
-- same run_id and request_id.
create or replace view load_requests as
select
    run_id,                                                                      -- name of the run
    (attrs ->> '$."slo.load.step"')::integer as step,                            -- place of the step in the run
    (attrs ->> '$."slo.load.offered"')::double as offered,                       -- requests a second, or clients
    (attrs ->> '$."slo.load.number"')::bigint as number,                         -- place of the request in the run
    request_ref as request_id,                                                   -- id under which it was sent
    trace_id,                                                                    -- its trace
    started as planned,                                                          -- when it was to be sent
    (attrs ->> '$."slo.load.lateness"')::double * 1000 as late_ms,               -- from then until it was sent
    duration_ns / 1e6 as total_ms,                                               -- from then until its end
    ttft_ns / 1e6 as ttft_ms,                                                    -- from then until its first token
    attrs ->> '$."slo.load.outcome"' as outcome,                                 -- ok, error, timeout, shed, rejected or left
    status_code,                                                                 -- HTTP status
    attempts,                                                                    -- times it was sent, 429 and 503 answered
    route,                                                                       -- path of the target
    tenant,                                                                      -- tenant that it named
    model,                                                                       -- model that it asked
    output_tokens                                                                -- tokens of its answer, where told
from spans
where run_id is not null and parent_span_id is null and attrs ->> '$."slo.load.number"' is not null;

-- One row a step of a load run: one level of load, and whether the objectives held.
create or replace view load_steps as
select
    attrs ->> '$."slo.run.id"' as run_id,                                        -- name of the run
    (attrs ->> '$."slo.load.step"')::integer as step,                            -- place of the step in the run
    t as ended,                                                                  -- when it was over
    attrs ->> '$."slo.load.unit"' as unit,                                       -- requests/s or clients
    (attrs ->> '$."slo.load.offered"')::double as offered,                       -- load in that unit, null for a trace's own
    (attrs ->> '$."slo.load.n"')::bigint as n,                                   -- requests
    (attrs ->> '$."slo.load.lasted_s"')::double as lasted_s,                     -- seconds in which they were sent
    (attrs ->> '$."slo.load.per_s"')::double as per_s,                           -- answers a second
    (attrs ->> '$."slo.load.goodput_per_s"')::double as goodput_per_s,           -- of those that met every objective
    (attrs ->> '$."slo.load.holds"')::boolean as holds,                          -- every objective held, null without any
    attrs ->> '$."slo.load.broke"' ->> '$.stage' as broke_stage,                 -- the stage that broke first
    (attrs ->> '$."slo.load.total_ms"' ->> '$.p50')::double as p50_ms,           -- of answered requests
    (attrs ->> '$."slo.load.total_ms"' ->> '$.p95')::double as p95_ms,           -- of answered requests
    (attrs ->> '$."slo.load.total_ms"' ->> '$.p99')::double as p99_ms,           -- of answered requests
    (attrs ->> '$."slo.load.ttft_ms"' ->> '$.p95')::double as ttft_p95_ms,       -- of streams
    (attrs ->> '$."slo.load.late_ms"' ->> '$.p99')::double as late_p99_ms,       -- how late the client sent
    (attrs ->> '$."slo.load.outcomes"')::json as outcomes                        -- requests by outcome
from logs
where event_name = 'slo.load.step';
