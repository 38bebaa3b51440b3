-- One row a route, tenant or model of the last seven days, the busiest $rows of each: what can be filtered by.
with counted as (
    select route, tenant, model, count(*) as n
    from requests
    where started >= $now::timestamptz - interval 7 day
        and not synthetic
    group by all
)
select name, value, sum(n)::bigint as n
from (unpivot counted on route, tenant, model into name name value value)
group by name, value
qualify row_number() over (partition by name order by sum(n) desc, value) <= $rows
order by name, n desc, value
