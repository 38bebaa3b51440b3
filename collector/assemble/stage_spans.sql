-- Replaces the rows that an earlier assembly gave these traces; every row starts within the spans of its trace.
delete from stage_spans
where trace_id in (select trace_id from ripe) and started between make_timestamptz($first_us) and make_timestamptz($last_us);

insert into stage_spans by name
select
    request.request_id, request.trace_id, walk.span_id, part.stage, coalesce(member.name, 'missing parent') as name, member.peer,
    make_timestamptz(part.a // 1000) as started,
    (part.a - request.cs) / 1e6 as offset_ms,
    part.ns / 1e6 as duration_ms,
    part.critical_ns / 1e6 as critical_ms,
    case when member.status = 'ERROR' or call.outcome in ('error', 'timeout', 'rejected') then 'error' else 'ok' end as outcome
from part
join request on request.req = part.req
join walk on walk.i = part.i
left join member on member.rowid = walk.m
left join call on call.i = part.i
where part.a is not null
