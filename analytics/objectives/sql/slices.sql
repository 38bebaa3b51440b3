-- One row a part and slice of time with events: n is 1; bad_weight is 1 where too small a share of what the slice's events
-- stand for was good, or, where no share makes a slice good ($slice_target is null), the share of bad ones.
select
    part, minute,
    1::bigint as n, (bad_weight > 0)::bigint as bad,
    1::double as weight, bad_weight,
    0::double as spread, 0::double as bad_spread
from (
    select
        part, minute,
        case when $slice_target::double is null then 1 - good_share else (good_share < $slice_target)::double end as bad_weight
    from (
        select
            part,
            time_bucket(to_seconds($slice_s), t) as minute,
            coalesce(sum(weight) filter (where not bad), 0) / sum(weight) as good_share
        from events
        group by part, minute
    )
)
