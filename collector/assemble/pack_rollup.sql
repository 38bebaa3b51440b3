-- Adds up what came of each minute of the last full hour in many ticks; turns hours that ended 26 hours ago into one row a
-- group; and once all of a day are, counts all but its 200 largest tenants as `other` and lays each measure's rows together.
create or replace temp table packing as
select distinct date_trunc('hour', minute) as hour
from rollup_minute
where minute < date_trunc('hour', $now::timestamptz - interval 26 hour) and minute <> date_trunc('hour', minute);

create or replace temp table folding as
select distinct date_trunc('day', hour) as day
from packing
where date_trunc('day', hour) < date_trunc('day', $now::timestamptz - interval 26 hour);

create or replace temp table small as
select date_trunc('day', minute) as day, tenant
from rollup_minute
where measure = 'total_ms' and tenant <> 'other' and date_trunc('day', minute) in (select day from folding)
group by date_trunc('day', minute), tenant
qualify row_number() over (partition by date_trunc('day', minute) order by sum(n) desc, tenant) > 200;

create or replace temp table taken as
select rollup_minute.rowid as row_id
from rollup_minute
where date_trunc('hour', minute) = date_trunc('hour', $now::timestamptz - interval 65 minute)
   or date_trunc('hour', minute) in (select hour from packing)
   or date_trunc('day', minute) in (select day from folding);

create or replace temp table packed as
select
    if(minute < date_trunc('hour', $now::timestamptz - interval 26 hour), date_trunc('hour', minute), minute) as minute,
    measure, service, route, model, if(small.tenant is null, rolled.tenant, 'other') as tenant, outcome, bucket,
    sum(n)::bigint as n, sum(total_ms)::decimal(18, 3) as total_ms
from rollup_minute as rolled
left join small on small.day = date_trunc('day', rolled.minute) and small.tenant = rolled.tenant
where rolled.rowid in (select row_id from taken)
group by all
having sum(n) <> 0 or sum(total_ms) <> 0;

delete from rollup_minute
where rowid in (select row_id from taken);

insert into rollup_minute by name
from packed
order by measure, minute;

drop table packing;
drop table folding;
drop table small;
drop table taken;
drop table packed
