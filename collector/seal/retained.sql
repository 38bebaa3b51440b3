-- Remembers that rows of a table older than $until_us have ended; of those that are left the oldest is the end of what did.
insert into retained
select '{relation}', least(make_timestamptz($until_us), coalesce(min({time}), make_timestamptz($until_us)))
from {table}
on conflict do update set since = greatest(since, excluded.since)
