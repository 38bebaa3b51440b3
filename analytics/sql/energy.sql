-- One row a GPU: joules by its own counter, and how many a token that servers generated meanwhile (all of them, on all GPUs).
with sample as (
    select host, gpu, sampled_at, energy_j - lag(energy_j) over (partition by host, gpu order by sampled_at) as grown
    from gpu
    where sampled_at >= $from_ts::timestamptz and sampled_at < $to_ts::timestamptz and energy_j is not null
),
used as (  -- a counter that falls began anew
    select host, gpu, sum(grown) filter (where grown > 0) as joules
    from sample
    group by host, gpu
),
generated as (
    select sum(tokens) as tokens
    from decode_rate
    where side = 'server' and unit = 'token' and t >= $from_ts::timestamptz and t < $to_ts::timestamptz
)
select host, gpu, joules, sum(joules) over () / nullif(tokens, 0) as joules_a_token
from used, generated
order by host, gpu
