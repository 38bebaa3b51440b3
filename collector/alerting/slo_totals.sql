-- One row an objective and part: all requests that its events stand for, and the bad ones of them.
select objective, part, sum(coalesce(weight, n)) as n, sum(coalesce(bad_weight, bad)) as bad
from slo_minute
group by all
