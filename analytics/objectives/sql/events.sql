-- One row an event that counts for one objective: t, part (the value of what the budget is kept apart by, else empty), bad,
-- weight (requests that it stands for), running (it has not ended, and is over its limit already).
-- The words in braces stand for expressions made from the objective, whose conditions were checked when it was read.
select
    started as t,
    coalesce(({part})::varchar, '') as part,
    ({bad}) as bad,
    coalesce(weight, 1) as weight,
    false as running
from requests
where started >= $events_from::timestamptz
    and started < $to_ts::timestamptz
    and not synthetic
    and ({where})
    and ({counts})
union all
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
where started >= $events_from::timestamptz
    and started < $to_ts::timestamptz
    and ({where})
    and ({late})
