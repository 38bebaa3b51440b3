-- Takes the assembled traces off the list and remembers what a later tick asks about them.
delete from dirty where trace_id in (select trace_id from ripe);
delete from trace_state where trace_id in (select trace_id from ripe) or seen < $now - interval 15 minute;
delete from abroad where trace_id in (select trace_id from ripe) or seen < $now - interval 10 minute;
delete from live where (trace_id, span_id) in (select (trace_id, span_id) from member where rule <> 'lost');
delete from twin;
delete from tail;
delete from over;
delete from cost;
delete from call_cost;
insert into trace_state
select trace_id, min(start_ns), max(end_ns), bool_or(parent_span_id is null), $now from member group by trace_id;
insert into abroad
select distinct walk.trace_id, member.response_id, $now
from walk
join node as host on host.i = coalesce(walk.serves, walk.becomes)
join member on member.rowid = walk.m
where host.trace_id <> walk.trace_id and member.response_id is not null
