-- Engines that leave requests waiting for 60 s beside an idle GPU and a KV cache with room. GPUs of all hosts count as one.
create or replace macro found_scheduler_bug(
    from_t, to_t, idle_util := 0.2, least_waiting := 5, least_s := 60, free_share := 0.2, fewest := 5
) as table
with sampled as (
    select instance, model, t, coalesce(waiting >= least_waiting and kv_used <= 1 - free_share, false) as waits
    from engine
    where t >= from_t::timestamptz and t < to_t::timestamptz
),
run as (  -- samples in a row share the number of those before them that were none
    select *, count(*) filter (where not waits) over (partition by instance, model order by t) as run
    from sampled
),
stuck as (
    select instance, model, t, t - to_seconds(least_s) as began
    from run
    where waits
    window
        so_far as (partition by instance, model, run order by t),
        lately as (partition by instance, model, run order by t range between to_seconds(least_s) preceding and current row)
    qualify epoch(t) - epoch(min(t) over so_far) >= least_s and count(*) over lately >= fewest
),
idle as (
    select stuck.*, avg(gpu.util) as util
    from stuck
    join gpu on gpu.sampled_at > stuck.began and gpu.sampled_at <= stuck.t
    where gpu.sampled_at >= from_t::timestamptz - to_seconds(least_s) and gpu.sampled_at < to_t::timestamptz
    group by all
    having avg(gpu.util) <= idle_util
)
select
    max(t) as found_at,
    to_json({'instance': instance, 'model': model}) as scope,
    'page' as severity,
    to_json({
        'from': strftime(min(began) at time zone 'UTC', '%Y-%m-%d %H:%M:%S+00'), 'gpu_util': avg(util),
        'waited_ms': 1e3 * (epoch(max(t)) - epoch(min(began)))
    }) as evidence,
    format(
        'restart {} and look for a lock or a limit (max_num_batched_tokens) in its scheduler: requests waited {:.0f} ms beside an idle GPU',
        instance, 1e3 * (epoch(max(t)) - epoch(min(began)))
    ) as advice
from idle
group by five_minutes(t), instance, model;

-- One row a finding of the last hour: an engine that leaves requests waiting beside an idle GPU.
create or replace view diag_scheduler_bug as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_scheduler_bug(now() - interval 1 hour, now());
