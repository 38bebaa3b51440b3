-- One row: whether any request of a scope in the last hour is one that an objective speaks of; {where} is its condition.
select exists (
    from requests
    where started >= $now::timestamptz - interval 1 hour and started <= $now::timestamptz and not synthetic
        and route = $route and service is not distinct from $service and ({where})
) as speaks
