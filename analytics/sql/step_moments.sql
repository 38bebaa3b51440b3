-- One row an engine: means and co-variances, over its steps, of a step's length, its decoding streams and its prompt tokens.
with sample as (  -- means of the steps of one sample: a formula that is linear in the two holds for means too
    select
        instance,
        steps,
        step_ms as length_ms,
        greatest(batch_tokens - prompt_tokens / steps, 0) as streams,
        prompt_tokens / steps as prompt_tokens
    from engine
    where t >= $from_ts::timestamptz
        and t < $to_ts::timestamptz
        and up
        and steps > 0
        and step_ms > 0
        and batch_tokens is not null
        and prompt_tokens is not null
),
mean as (
    select
        instance,
        count(*) as n,
        sum(steps) as steps,
        sum(steps * length_ms) / sum(steps) as length_ms,
        sum(steps * streams) / sum(steps) as streams,
        sum(steps * prompt_tokens) / sum(steps) as prompt_tokens
    from sample
    group by all
),
apart as (
    select
        instance,
        sample.steps,
        sample.length_ms - mean.length_ms as length_ms,
        sample.streams - mean.streams as streams,
        sample.prompt_tokens - mean.prompt_tokens as prompt_tokens
    from sample
    join mean using (instance)
),
spread as (
    select
        instance,
        sum(steps * length_ms ** 2) / sum(steps) as var_length,
        sum(steps * streams ** 2) / sum(steps) as var_streams,
        sum(steps * prompt_tokens ** 2) / sum(steps) as var_prompt,
        sum(steps * streams * prompt_tokens) / sum(steps) as cov_both,
        sum(steps * streams * length_ms) / sum(steps) as cov_streams,
        sum(steps * prompt_tokens * length_ms) / sum(steps) as cov_prompt
    from apart
    group by all
)
from mean
join spread using (instance)
order by instance
