-- One row a metric point.
insert into metrics by name
select name,
       kind,
       unit,
       temporality,
       monotonic,
       make_timestamptz(start_ns // 1000) as started,
       make_timestamptz(t_ns // 1000) as t,
       value,
       n,
       total,
       bounds,
       counts,
       min,
       max,
       quantile_values,
       resource_id,
       scope,
       attrs::JSON as attrs
from batch_metrics
