-- One row a record of what a user made of an answer.
insert into feedback by name
select
    attrs ->> '$."slo.request.id"' as request_id,
    coalesce(make_timestamptz(coalesce(t_ns, observed_ns) // 1000), $now::timestamptz) as t,
    case when isfinite(try_cast(attrs ->> '$."slo.feedback.score"' as double)) then (attrs ->> '$."slo.feedback.score"')::double end
        as score,
    try_cast(attrs ->> '$."slo.feedback.completed"' as boolean) as completed,
    try_cast(attrs ->> '$."slo.feedback.converted"' as boolean) as converted
from batch_logs
where event_name = 'slo.feedback' and attrs ->> '$."slo.request.id"' is not null
