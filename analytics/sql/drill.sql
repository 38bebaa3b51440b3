-- One row a value of a dimension: how many requests have it, and how many of those were bad, beside all.
with request as (
    select
        request_id, trace_id, model, tenant, route, version, region, prompt_bucket,
        case
            when $box_from_ts::timestamptz is not null
                then started >= $box_from_ts::timestamptz and started < $box_to_ts::timestamptz
                    and total_ms >= $lo_ms::double and total_ms < $hi_ms::double
            else outcome in ('error', 'timeout', 'dropped', 'shed', 'lost', 'degraded')
                or coalesce(total_ms > coalesce($slower_than_ms::double, budget_ms), false)
        end as bad
    from requests
    where started >= $from_ts::timestamptz and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic and ($box_from_ts::timestamptz is not null or outcome <> 'rejected')
),
answered as (
    select request_id, trace_id, arg_min(server_address, started) as instance
    from calls
    where started >= $from_ts::timestamptz
    group by request_id, trace_id
),
valued as (
    select
        bad,
        unnest(['model', 'tenant', 'route', 'version', 'region', 'prompt_bucket', 'instance']) as dimension,
        unnest([model, tenant, route, version, region, prompt_bucket::varchar, instance]) as value
    from request
    left join answered using (request_id, trace_id)
)
select
    dimension, value,
    count(*) as n,
    count(*) filter (where bad) as bad,
    (select count(*) from request) as all_n,
    (select count(*) from request where bad) as all_bad
from valued
where value is not null
group by dimension, value
order by dimension, value
