-- One row a request that is still running, from the newest record about it; one that had been given up runs after all.
merge into live
using (
    select * exclude (said_started), coalesce(said_started, t - to_microseconds((age_s * 1e6)::bigint)) as started
    from (
        select
            trace_id, span_id, service, resource_id,
            coalesce(attrs ->> '$."slo.request.id"', lower(printf('%016x', span_id))) as request_id,
            attrs ->> '$."slo.request"' as route, attrs ->> '$."slo.tenant"' as tenant, attrs ->> '$."slo.stage"' as stage,
            coalesce(make_timestamptz(coalesce(t_ns, observed_ns) // 1000), $now::timestamptz) as t,
            least(greatest(coalesce(try_cast(attrs ->> '$."slo.request.age"' as double), 0), 0), 1e6) as age_s,
            try_cast(attrs ->> '$."slo.request.started"' as double) as started_s,
            case when started_s between 0 and 4e9 then make_timestamptz((started_s * 1e6)::bigint) end as said_started,
            attrs ->> '$."gen_ai.request.model"' as model,
            1000 * try_cast(attrs ->> '$."slo.budget.total"' as double) as budget_ms,
            1000 * try_cast(attrs ->> '$."slo.time_to_first_token"' as double) as ttft_ms,
            try_cast(attrs ->> '$."slo.stream.chunks"' as bigint) as chunks,
            1000 * try_cast(attrs ->> '$."slo.stream.silence"' as double) as silence_ms,
            1000 * try_cast(attrs ->> '$."slo.stream.usual_gap"' as double) as usual_gap_ms,
            try_cast(attrs ->> '$."slo.stream.stalls"' as bigint) as stalls,
            1000 * try_cast(attrs ->> '$."slo.stream.stall_time"' as double) as stall_ms
        from batch_logs
        where event_name = 'slo.request.running' and trace_id is not null and span_id is not null
    )
    qualify row_number() over (partition by trace_id, span_id order by age_s desc) = 1
) as beat
on live.trace_id = beat.trace_id and live.span_id = beat.span_id
when matched and beat.age_s >= live.age_s then update set
    stage = beat.stage, age_s = beat.age_s, heard = $now::timestamptz, changed = live.changed or live.outcome is not null, outcome = null,
    model = beat.model, budget_ms = beat.budget_ms, ttft_ms = beat.ttft_ms, chunks = beat.chunks, silence_ms = beat.silence_ms,
    usual_gap_ms = beat.usual_gap_ms, stalls = beat.stalls, stall_ms = beat.stall_ms
when not matched then insert (
    trace_id, span_id, request_id, started, service, route, tenant, stage, age_s, heard, resource_id, changed,
    model, budget_ms, ttft_ms, chunks, silence_ms, usual_gap_ms, stalls, stall_ms
) values (
    beat.trace_id, beat.span_id, beat.request_id, beat.started, beat.service, beat.route, beat.tenant, beat.stage, beat.age_s,
    $now::timestamptz, beat.resource_id, false,
    beat.model, beat.budget_ms, beat.ttft_ms, beat.chunks, beat.silence_ms, beat.usual_gap_ms, beat.stalls, beat.stall_ms
)
