-- The traces of one tenant, or of one request.
create or replace temp table forgotten as
select trace_id from requests where tenant = $tenant or request_id = $request
union
select trace_id from spans where tenant = $tenant or request_ref = $request
