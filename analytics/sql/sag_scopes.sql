-- One row a series that sags together with others: the coarsest of provider, model and instance of which 70 % of the series do.
with series as (  -- that decoded anything lately
    select
        series,
        any_value(provider) as provider,
        any_value(model) as model,
        any_value(instance) as instance,
        coalesce(list_contains($sagging::varchar[], series), false)::int as sags
    from decode_rate
    where t >= $since::timestamptz
    group by series
),
level as (
    select 1 as place, provider as name, concat('provider ', provider) as scope, series, sags
    from series where provider is not null
    union all
    select 2, concat_ws(' ', provider, model), concat('model ', model), series, sags
    from series where model is not null
    union all
    select 3, concat_ws(' ', provider, instance), concat('instance ', instance), series, sags
    from series where instance is not null
),
judged as (
    select
        *,
        sum(sags) over (partition by place, name) as sagging,
        count(*) over (partition by place, name) as members
    from level
)
select series, arg_min(scope, place) as scope, arg_min(sagging, place)::bigint as sagging, arg_min(members, place) as members
from judged
where sags = 1 and members > 1 and sagging >= 0.7 * members
group by series
order by series
