-- The ids of the requests that are forgotten, of which something may be said in no trace.
create or replace temp table forgotten_request as
select distinct request_id from requests where trace_id in (from forgotten)
union
select $request::varchar where $request::varchar is not null and $tenant::varchar is null
