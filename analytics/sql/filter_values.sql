-- One row a route, tenant or model of the last seven days, the busiest $rows of each: what can be filtered by.
with counted as (
    select route, tenant, model, count(*) as requests
    from requests
    where started >= $now::timestamptz - interval 7 day
        and not synthetic
    group by all
)
select name, value, sum(requests)::bigint as n
from (
    select 'route' as name, route as value, requests from counted where route is not null
    union all
    select 'tenant', tenant, requests from counted where tenant is not null
    union all
    select 'model', model, requests from counted where model is not null
)
group by name, value
qualify row_number() over (partition by name order by sum(requests) desc, value) <= $rows
order by name, n desc, value
