-- Remembers that the rows of a file have ended.
insert into retained
select "view", last + interval 1 microsecond
from sealed_files
where file = $file
on conflict do update set since = greatest(since, excluded.since)
