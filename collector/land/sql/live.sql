-- One row a request that is still running, from the newest record about it; one that had been given up runs after all.
merge into live
using (
    select
        trace_id::uuid as trace_id, span_id, arg_max(service, age_s) as service, arg_max(resource_id, age_s) as resource_id,
        arg_max(coalesce(request_id, lower(printf('%016x', span_id))), age_s) as request_id,
        arg_max(route, age_s) as route, arg_max(tenant, age_s) as tenant, arg_max(stage, age_s) as stage, max(age_s) as age_s,
        arg_max(coalesce(started, t - to_microseconds((age_s * 1e6)::bigint)), age_s) as started
    from (
        select
            * exclude (attrs),
            attrs ->> '$."slo.request.id"' as request_id, attrs ->> '$."slo.request"' as route, attrs ->> '$."slo.tenant"' as tenant,
            attrs ->> '$."slo.stage"' as stage,
            coalesce(make_timestamptz(coalesce(t_ns, observed_ns) // 1000), $now::timestamptz) as t,
            least(greatest(coalesce(try_cast(attrs ->> '$."slo.request.age"' as double), 0), 0), 1e6) as age_s,
            try_cast(attrs ->> '$."slo.request.started"' as double) as started_s,
            case when started_s between 0 and 4e9 then make_timestamptz((started_s * 1e6)::bigint) end as started
        from batch_logs
        where event_name = 'slo.request.running' and trace_id is not null and span_id is not null
    )
    group by all
) as beat
on live.trace_id = beat.trace_id and live.span_id = beat.span_id
when matched and beat.age_s >= live.age_s then update set stage = beat.stage, age_s = beat.age_s, heard = $now::timestamptz,
                                                          changed = live.changed or live.outcome is not null, outcome = null
when not matched then insert (trace_id, span_id, request_id, started, service, route, tenant, stage, age_s, heard, resource_id, changed)
                      values (beat.trace_id, beat.span_id, beat.request_id, beat.started, beat.service, beat.route, beat.tenant,
                              beat.stage, beat.age_s, $now::timestamptz, beat.resource_id, false)
