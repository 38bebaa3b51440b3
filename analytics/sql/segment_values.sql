-- One row a value of a segment that requests of a window have, the newest first: how many, and when it was seen first.
with shown as (
    select
        case $by::varchar
            when 'version' then version
            when 'model' then model
            when 'tenant' then tenant
            when 'route' then route
            when 'region' then region
            when 'run_id' then run_id
        end as value,
        started
    from requests
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and (not synthetic or $by = 'run_id')
)
select
    value,
    count(*) as n,
    min(started) as first_seen
from shown
where value is not null
group by value
order by first_seen desc, value
