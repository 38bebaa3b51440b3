-- Replaces the rows that an earlier assembly gave these traces; every row starts within the spans of its trace.
delete from requests
where trace_id in (select trace_id from ripe) and started between make_timestamptz($first_us) and make_timestamptz($last_us);

insert into requests by name
select request.* exclude (req, budgets, cs), over.over_stage, over.over_by
from request
left join over using (req)
