-- One row a part and minute as the collector has counted them.
select
    part, minute, n, bad,
    coalesce(weight, n) as weight, coalesce(bad_weight, bad) as bad_weight,
    coalesce(spread, 0) as spread, coalesce(bad_spread, 0) as bad_spread
from slo_minute
where objective = $objective
