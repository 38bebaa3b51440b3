-- One row a log record.
insert into logs_open by name
select trace_id,
       span_id,
       coalesce(make_timestamptz(coalesce(t_ns, observed_ns) // 1000), $now::TIMESTAMPTZ) as t,
       make_timestamptz(observed_ns // 1000) as observed,
       severity_number,
       severity,
       event_name,
       body::JSON as body,
       service,
       scope,
       resource_id,
       attrs::JSON as attrs
from batch_logs
