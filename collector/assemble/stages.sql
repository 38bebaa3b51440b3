-- Replaces the rows that an earlier assembly gave these traces; every row starts within the spans of its trace.
delete from stages
where trace_id in (select trace_id from ripe) and started between make_timestamptz($first_us) and make_timestamptz($last_us);

insert into stages by name
select * exclude (req, stage_budget_ms), stage_budget_ms as budget_ms
from stage
