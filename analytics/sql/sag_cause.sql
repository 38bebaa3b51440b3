-- One row a cause that GPUs, calls or the engine show for a slow series, the surest first; none when nothing does.
with lately as (
    select
        $opened::timestamptz - to_seconds($window_s) as start,
        $opened::timestamptz + to_seconds($window_s) as finish,
        $opened::timestamptz - to_seconds($baseline_s + $gap_s) as usual_start,
        $opened::timestamptz - to_seconds($gap_s) as usual_finish
),
series as (
    select
        arg_max(model, t) as model,
        arg_max(instance, t) as instance,
        arg_max(side, t) as side,
        arg_max(unit, t) as unit
    from decode_rate
    where series = $series and t <= $opened::timestamptz
),
sample as (  -- NVML's event bits: 0x4 software power cap, 0x8 slowdown, 0x20 and 0x40 thermal, 0x80 power brake
    select
        host, gpu, sm_mhz,
        sampled_at >= start as now,
        (throttle & 132) > 0 as capped,
        (throttle & 104) > 0 as hot
    from gpu, lately
    where util > 0
        and ((sampled_at >= start and sampled_at < finish)
            or (sampled_at >= usual_start and sampled_at < usual_finish))
),
device as (
    select
        avg(capped::int) filter (where now) - coalesce(avg(capped::int) filter (where not now), 0) as capped_more,
        avg(hot::int) filter (where now) - coalesce(avg(hot::int) filter (where not now), 0) as hot_more,
        median(sm_mhz) filter (where now) / median(sm_mhz) filter (where not now) as clock
    from sample
    group by host, gpu
),
call as (
    select
        calls.*,
        calls.started >= start as now,
        series.unit
    from calls, lately, series
    where ((calls.started >= start and calls.started < finish)
            or (calls.started >= usual_start and calls.started < usual_finish))
        and series.side = 'client'
        and calls.model is not distinct from series.model
        and (calls.server_address is null or calls.server_address is not distinct from series.instance)
),
packing as (  -- chunks came fewer because each holds more
    select
        sum(output_tokens) filter (where now) / sum(chunks) filter (where now) as now,
        sum(output_tokens) filter (where not now) / sum(chunks) filter (where not now) as usual
    from call
    where unit = 'chunk' and output_tokens > 0 and chunks > 0
),
reader as (  -- what the caller sat on is in the time of its streams
    select
        sum(consumer_ms) filter (where now) / sum(decode_ms) filter (where now) as now,
        coalesce(sum(consumer_ms) filter (where not now) / sum(decode_ms) filter (where not now), 0) as usual
    from call
),
preempted as (  -- sequences that lost their room in the KV cache, a second
    select
        coalesce(sum(preemptions) filter (where engine.t >= start and engine.t < finish), 0) / (2 * $window_s) as now,
        coalesce(sum(preemptions) filter (where engine.t >= usual_start and engine.t < usual_finish), 0) / $baseline_s as usual
    from engine, lately, series
    where engine.t >= usual_start and engine.t < finish
        and (engine.instance = series.instance
            or engine.model = series.model
                and not exists (from engine as own where own.instance = series.instance and own.t >= usual_start and own.t < finish))
),
found as (
    select 0 as place, 'more tokens a chunk' as cause from packing where now >= 1.2 * usual
    union all
    select 1, 'slow reader' from reader where now > 0.2 and now > 2 * usual
    union all
    select 2, 'preemption' from preempted where now > 0 and now > 2 * usual
    union all
    select 3, 'GPU power cap' from device, series where side = 'server' and capped_more >= 0.3
    union all
    select 4, 'GPU slowdown' from device, series where side = 'server' and hot_more >= 0.3
    union all
    select 5, 'GPU clock' from device, series where side = 'server' and clock <= 0.9
)
select distinct place, cause
from found
order by place
