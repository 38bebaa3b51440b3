-- One row a part and slice of time with events: n is 1, bad is 1 where too few events of the slice were good.
select
    part,
    time_bucket(to_seconds($slice_s), t) as minute,
    1::bigint as n,
    (count_if(not bad) < $slice_target * count(*))::bigint as bad
from events
group by part, minute
