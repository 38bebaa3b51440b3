-- Takes the assembled traces off the list and remembers what a later tick asks about them.
delete from dirty where trace_id in (select trace_id from ripe);
delete from rooted where trace_id in (select trace_id from ripe) or seen < $now - interval 15 minute;
delete from lonely where trace_id in (select trace_id from ripe) or seen < $now - interval 10 minute;
insert into rooted
select distinct trace_id, $now from member where parent_span_id is null;
insert into lonely
select walk.trace_id, member.response_id, $now
from walk
join member on member.rowid = walk.m
where walk.role = 'engine' and not walk.gone and member.response_id is not null
