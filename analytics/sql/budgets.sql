-- One row an objective and part: how its error budget stands; what fires or sees nothing first, then the least left.
select
    objective,
    part,
    goal,
    slice,
    measure,
    limit_ms,
    target,
    period,
    n,
    bad,
    good_share,
    budget_left,
    hours_left,
    burn_1h,
    burn_6h,
    firing,
    blind_since,
    judged,
    requests,
    margin,
    running,
    coverage
from slo_status
order by len(firing) = 0 and blind_since is null, budget_left, objective, part
