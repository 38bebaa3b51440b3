-- One row an objective and part: all events that were counted, and the bad ones of them.
select objective, part, sum(n)::bigint as n, sum(bad)::bigint as bad
from slo_minute
group by all
