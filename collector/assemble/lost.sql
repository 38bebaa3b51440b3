-- One row more a request of a ripe trace that was lost: it stands where its span would, until that comes.
insert into member by name
select
    trace_id, span_id, coalesce(route, 'request') as name, 'SERVER' as kind, epoch_ns(started) as start_ns,
    start_ns + (age_s * 1e9)::bigint as end_ns, service, 'UNSET' as status, resource_id, 'container' as role, 'lost' as rule,
    name as request, request_id as request_ref, tenant, outcome
from live
where outcome = 'lost'
  and trace_id in (select trace_id from ripe)
  and (trace_id, span_id) not in (select (trace_id, span_id) from member)
