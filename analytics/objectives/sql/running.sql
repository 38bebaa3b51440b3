-- One row a request that still runs and is over a limit of one objective already, with the columns of an event.
select
    started as t,
    coalesce(({part})::varchar, '') as part,
    true as bad,
    1 as weight,
    true as running
from (
    select * from requests where false
    union all by name
    select
        live.request_id, live.trace_id, live.span_id, live.started, live.service, live.route, live.tenant, live.model,
        resources.version, resources.region, live.ttft_ms, 1000 * live.age_s as age_ms, false as synthetic
    from live
    left join resources on resources.resource_id = live.resource_id
    where live.outcome is null
) as requests
where ({where}) and ({late})
