-- One row a request of one side of a comparison, oldest first.
select
    epoch(requests.started) as t_s,
    requests.total_ms,
    requests.ttft_ms,
    (requests.outcome = 'timeout')::double as timed_out,
    (requests.outcome = 'dropped')::double as dropped,
    (requests.outcome in ('error', 'lost', 'shed'))::double as failed,
    requests.cost_usd,
    case when requests.input_tokens > 0 then coalesce(requests.cached_tokens > 0, false)::double end as cached
from requests
left join spans using (trace_id, span_id)
where requests.started >= $from_ts::timestamptz and requests.started < $to_ts::timestamptz
    and ($route::varchar is null or requests.route = $route)
    and ($tenant::varchar is null or requests.tenant = $tenant)
    and ($model::varchar is null or requests.model = $model)
    and (not requests.synthetic or $by = 'run_id')
    and ($value::varchar is null or $value::varchar = case $by
        when 'version' then requests.version
        when 'model' then requests.model
        when 'tenant' then requests.tenant
        when 'route' then requests.route
        when 'region' then requests.region
        when 'run_id' then requests.run_id
        else attribute(spans.attrs, $by)
    end)
order by t_s, requests.request_id
