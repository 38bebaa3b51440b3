-- One row a part and slice of time with events: n is 1, bad is 1 where too small a share of what the slice's events stand for
-- was good.
select
    *, n::double as weight, bad::double as bad_weight, 0::double as spread, 0::double as bad_spread
from (
    select
        part,
        time_bucket(to_seconds($slice_s), t) as minute,
        1::bigint as n,
        (coalesce(sum(weight) filter (where not bad), 0) < $slice_target * sum(weight))::bigint as bad
    from events
    group by part, minute
)
