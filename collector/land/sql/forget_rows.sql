-- What stays of those row groups.
create or replace temp table kept as
select {table}.rowid as row_id, {table}.*
from {table}
join touched on {table}.rowid >= touched.first_row and {table}.rowid < touched.end_row
where not coalesce({condition}, false);

delete from {table}
where exists (from touched where {table}.rowid >= touched.first_row and {table}.rowid < touched.end_row);

insert into {table} by name (select * exclude (row_id) from kept order by row_id);

drop table kept
