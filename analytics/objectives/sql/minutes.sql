-- One row a part and minute with events: how many, and how many of them bad.
select part, time_bucket(interval 1 minute, t) as minute, count(*) as n, count_if(bad) as bad
from events
group by all
