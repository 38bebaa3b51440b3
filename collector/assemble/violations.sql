-- Replaces the rows that an earlier assembly gave these traces; every row starts within the spans of its trace.
delete from violations
where trace_id in (select trace_id from ripe) and started between make_timestamptz($first_us) and make_timestamptz($last_us);

insert into violations by name
select
    request.request_id, request.trace_id, request.started, request.route, request.tenant, request.model, request.total_ms,
    over.over_budget_ms as budget_ms, over.over_stage, over.over_ms
from over
join request using (req)
