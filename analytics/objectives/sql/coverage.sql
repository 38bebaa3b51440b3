-- One row: of the requests that the services and routes of an objective counted themselves, the share that came; where traces
-- are sampled the most that it may be (95 %). Null where nobody counts.
with mine as (
    select distinct service, route
    from requests
    where started >= $from_ts::timestamptz and started < $to_ts::timestamptz and not synthetic and root_kind = 'slo' and ({where})
)
select least((sum(assembled) + 1.96 * sqrt(sum(spread))) / nullif(sum(ended), 0), 1) as share
from counted_requests($from_ts, $to_ts) as counted
semi join mine on mine.service is not distinct from counted.service and mine.route is not distinct from counted.route
