-- One row a region, prompt bucket and tenth of its answers by length: calls of that kind, and their mean lengths.
with served as (
    select
        coalesce(region, '') as region,
        coalesce(prompt_bucket, 0) as prompt_bucket,
        greatest(input_tokens - coalesce(cached_tokens, 0), 0) as prompt_tokens,
        output_tokens
    from calls
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and input_tokens is not null
        and output_tokens > 0
        and ($instance is null or server_address = $instance)
        and trace_id not in (
            select trace_id
            from requests
            where synthetic and started >= $from_ts::timestamptz - interval 1 hour and started < $to_ts::timestamptz
        )
),
ranked as (
    select *, ntile(10) over (partition by region, prompt_bucket order by output_tokens, prompt_tokens) as tenth
    from served
)
select
    region,
    prompt_bucket,
    tenth,
    count(*) as n,
    avg(prompt_tokens) as prompt_tokens,
    avg(output_tokens) as output_tokens
from ranked
group by all
order by all
