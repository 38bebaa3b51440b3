-- Engines on a busy GPU with nothing waiting, a nearly empty batch and under half the tokens of their best five minutes of the day.
-- `batch_limit` is the engine's (vLLM: max_num_seqs); GPUs of all hosts count as one.
create or replace macro found_batching_misconfig(
    from_t, to_t, busy_util := 0.8, most_waiting := 1, batch_limit := 256, batch_share := 0.25, speed_share := 0.5, fewest := 30
) as table
with busy as (
    select five_minutes(sampled_at) as since, avg(util) as util
    from gpu
    where sampled_at >= from_t::timestamptz - interval 1 day and sampled_at < to_t::timestamptz
    group by all
    having avg(util) >= busy_util
),
served as (
    select
        five_minutes(t) as since, instance, model, quantile_cont(waiting, 0.9) as waiting, avg(running) as running,
        sum(generation_tokens) / (epoch(max(t)) - epoch(min(t))) as tokens_per_s
    from engine
    where t >= from_t::timestamptz - interval 1 day and t < to_t::timestamptz
    group by all
    having count(*) >= fewest and max(t) > min(t)
),
judged as (
    select *, max(tokens_per_s) over (partition by instance, model) as best_per_s
    from served
    join busy using (since)
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'instance': instance, 'model': model}) as scope,
    'ticket' as severity,
    to_json({
        'gpu_util': util, 'waiting': waiting, 'running': running, 'tokens_per_s': tokens_per_s, 'best_tokens_per_s': best_per_s,
        'ms_a_token': 1e3 / tokens_per_s
    }) as evidence,
    format(
        'raise max_num_seqs or max_num_batched_tokens of {}, or ask it more at once: at its best it spends {:.1f} ms a token, now {:.1f}',
        instance, 1e3 / best_per_s, 1e3 / tokens_per_s
    ) as advice
from judged
where since + interval 5 minutes > from_t::timestamptz
    and waiting <= most_waiting and running <= batch_share * batch_limit and tokens_per_s < speed_share * best_per_s;

-- One row a finding of the last hour: an engine that keeps its GPU busy with a nearly empty batch.
create or replace view diag_batching_misconfig as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_batching_misconfig(now() - interval 1 hour, now());
