-- The point of one cumulative counter that landed last, sealed ones among them.
select epoch_ns(t) as t_ns, value
from metrics
where name = $1 and resource_id = $2 and attrs = $3 and value is not null
order by t desc
limit 1
