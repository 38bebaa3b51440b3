-- One row a region and tenant: its calls, the tokens of its prompts that were computed, and of its answers.
with tenant as (
    select trace_id, request_id, any_value(tenant) as tenant, bool_or(synthetic) as synthetic
    from requests
    where started >= $from_ts::timestamptz - interval 1 hour
        and started < $to_ts::timestamptz
    group by all
)
select
    coalesce(calls.region, '') as region,
    tenant.tenant,
    count(*) as n,
    sum(greatest(input_tokens - coalesce(cached_tokens, 0), 0))::bigint as prompt_tokens,
    sum(output_tokens)::bigint as output_tokens
from calls
left join tenant using (trace_id, request_id)
where started >= $from_ts::timestamptz
    and started < $to_ts::timestamptz
    and input_tokens is not null
    and output_tokens > 0
    and not coalesce(synthetic, false)
    and ($instance is null or server_address = $instance)
group by all
order by output_tokens desc, tenant
