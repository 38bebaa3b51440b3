-- One row a route of the last seven days, busiest first.
select
    route,
    count(*) as n
from requests
where started >= $now::timestamptz - interval 7 day
    and route is not null
    and not synthetic
group by route
order by n desc, route;
