-- Replaces the rows that an earlier assembly gave these traces; every row starts within the spans of its trace.
delete from streams
where trace_id in (select trace_id from ripe) and started between make_timestamptz($first_us) and make_timestamptz($last_us);

insert into streams by name
with told as (  -- the client's side of a call, and the engine's
    select call.i, call.i as call, if(call.alone, 'server', 'client') as side from call
    union all
    select i, serves, 'server' from walk where role = 'engine' and serves is not null
)
select
    walk.trace_id, walk.span_id, request.request_id, told.side, call.model,
    make_timestamptz(walk.us // 1000) as started, stream_gaps(member.gaps) as gaps_us
from told
join call on call.i = told.call
join walk on walk.i = told.i
join member on member.rowid = walk.m
left join request on request.req = call.req
where stream_gaps(member.gaps) is not null
