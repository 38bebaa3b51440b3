-- Fills requests that were assembled before their feedback came: those of the last week, so that their part of the table is enough.
update requests
set feedback = told.said
from (
    select request_id, feedback_said(arg_max(score, t), arg_max(completed, t), arg_max(converted, t)) as said
    from feedback
    where request_id in (select attrs ->> '$."slo.request.id"' from batch_logs where event_name = 'slo.feedback')
    group by request_id
) as told
where requests.request_id = told.request_id and requests.started >= $now::timestamptz - interval 7 days
    and requests.feedback is distinct from told.said
