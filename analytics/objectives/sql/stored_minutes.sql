-- One row a part and minute as the collector has counted them.
select part, minute, n, bad
from slo_minute
where objective = $objective
