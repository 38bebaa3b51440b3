-- One row a value of what people change that was seen in a stretch of time: kind, service, name of what changes, value,
-- first and last time. Prompt versions are read from at most 5,000 calls, since their attributes are JSON.
with prompts as (
    select service, started as t, json_extract_string(attrs, '$."slo.prompt.version"') as value
    from spans
    where started >= $since::timestamptz and started < $until::timestamptz and role = 'call'
        and contains(attrs::varchar, 'slo.prompt.version')
    limit 5000
),
flags as (
    select trace_id, t, attrs from span_events
    where t >= $since::timestamptz and t < $until::timestamptz and name in ('feature_flag', 'feature_flag.evaluation')
    union all
    select trace_id, t, attrs from logs
    where t >= $since::timestamptz and t < $until::timestamptz and event_name = 'feature_flag.evaluation'
),
seen as (
    select 'version' as kind, service, '' as name, version as value, started as t
    from requests
    where started >= $since::timestamptz and started < $until::timestamptz and not synthetic
    union all
    select 'model', service, coalesce(role, ''), model, started
    from calls
    where started >= $since::timestamptz and started < $until::timestamptz
    union all
    select 'prompt', service, '', value, t from prompts
    union all
    select
        'flag', requests.service, json_extract_string(flags.attrs, '$."feature_flag.key"'),
        coalesce(
            json_extract_string(flags.attrs, '$."feature_flag.result.variant"'),
            json_extract_string(flags.attrs, '$."feature_flag.variant"'),
            json_extract_string(flags.attrs, '$."feature_flag.result.value"')
        ),
        flags.t
    from flags
    left join requests on requests.trace_id = flags.trace_id and requests.started >= $since::timestamptz - interval 1 hour
)
select kind, service, name, value, min(t) as first, max(t) as last
from seen
where value is not null
group by kind, service, name, value
order by first
