-- Who holds a GPU's memory, and what GPUs did for model calls; made anew at every start, so that files of earlier versions
-- have them too.

-- One row a process and second on a GPU.
create or replace view gpu_processes as
with point as (
    select
        t,
        attrs ->> '$."host.id"' as host,
        attrs ->> '$."hw.id"' as gpu,
        try_cast(attrs ->> '$."process.pid"' as BIGINT) as pid,
        attrs ->> '$."process.executable.name"' as process,
        try_cast(value as BIGINT) as mem_used_bytes
    from metrics
    where name = 'slo.gpu.process.memory'
)
select
    t,                 -- when
    host,              -- host.id
    gpu,               -- hw.id
    pid,               -- on that host
    process,           -- name of its executable, null where the sampler cannot see it
    mem_used_bytes,    -- memory of the GPU that it holds
from point
order by t, host, gpu, pid;

-- One row a model call that began in a span of time and GPU that may have served it: gpu_calls_between(from, to). The GPU is
-- the one that the engine names, else each of its host: host.id or host.name of its resource, else the host that was called.
create or replace macro gpu_calls_between(from_t, to_t) as table
with call as (
    select *
    from calls
    where started >= from_t::timestamptz and started < to_t::timestamptz
),
engine as (  -- the server's own word on when and where it computed; its clock may differ
    select
        spans.trace_id,
        spans.span_id,
        spans.started,
        spans.started + to_microseconds(spans.duration_ns // 1000) as ended,
        spans.attrs ->> '$."slo.gpu.id"' as gpu,
        coalesce(resources.attrs ->> '$."host.id"', resources.attrs ->> '$."host.name"') as host,
        try_cast(spans.attrs ->> '$."slo.gpu.energy"' as DOUBLE) as energy_j
    from spans
    left join resources using (resource_id)
    where role = 'engine'
        and spans.started >= from_t::timestamptz - interval 1 hour
        and spans.started < to_t::timestamptz + interval 1 hour
),
part as (
    select trace_id, span_id, unnest(spans) as part_id
    from call
),
told as (
    select part.trace_id, part.span_id, engine.started, engine.ended, engine.gpu, engine.host, engine.energy_j
    from part
    join engine on engine.trace_id = part.trace_id and engine.span_id = part.part_id
),
served as (
    select
        call.request_id, call.trace_id, call.span_id, call.model,
        coalesce(call.output_tokens, 0) as output_tokens,
        coalesce(told.started, call.started) as started,
        coalesce(told.ended, call.started + to_microseconds(round(call.total_ms * 1000)::bigint)) as ended,
        told.gpu,
        coalesce(told.host, split_part(call.server_address, ':', 1)) as host,
        told.energy_j
    from call
    left join told using (trace_id, span_id)
),
device as (
    select distinct host, gpu
    from gpu
    where sampled_at >= from_t::timestamptz - interval 1 minute and sampled_at < to_t::timestamptz + interval 1 hour
)
select served.* exclude (host, gpu), device.host, device.gpu
from served
join device on device.gpu = served.gpu
union all
select served.* exclude (host, gpu), device.host, device.gpu
from served
join device on device.host = served.host
where served.gpu is null;

-- One row a model call and GPU that may have served it, with what the GPU did meanwhile: gpu_requests_between(from, to).
create or replace macro gpu_requests_between(from_t, to_t) as table
with placed as (
    select *
    from gpu_calls_between(from_t, to_t)
),
sample as (  -- a counter that is not read at every tick holds its value; a sample holds until the next, at most 2 s
    select
        host,
        gpu,
        sampled_at,
        least(coalesce(lead(sampled_at) over series, sampled_at + interval 2 second), sampled_at + interval 2 second) as ended,
        last_value(sm_mhz ignore nulls) over held as sm_mhz,
        last_value(throttle ignore nulls) over held as throttle,
        last_value(util ignore nulls) over held as util,
        last_value(mem_used_bytes ignore nulls) over held as mem_used_bytes,
        last_value(power_w ignore nulls) over held as power_w
    from gpu
    where sampled_at >= from_t::timestamptz - interval 1 minute and sampled_at < to_t::timestamptz + interval 1 hour
    window
        series as (partition by host, gpu order by sampled_at),
        held as (partition by host, gpu order by sampled_at range between interval 2 second preceding and current row)
),
second as (  -- equality joins where a range join of every call with every sample would not end
    select
        placed.*,
        unnest(range(floor(epoch(started))::bigint - 3, floor(epoch(ended))::bigint + 3)) as s
    from placed
),
during as (
    select second.* exclude (s), sample.* exclude (host, gpu, ended)
    from second
    join sample on sample.host = second.host and sample.gpu = second.gpu and floor(epoch(sample.sampled_at))::bigint = second.s
    where sample.sampled_at <= second.ended and sample.ended > second.started
)
select
    request_id,
    trace_id,
    span_id,
    started,
    model,
    host,
    gpu,
    min(sm_mhz) as sm_mhz_min,
    bit_or(throttle) as throttle,
    avg(util) as util,
    max(mem_used_bytes) as mem_peak_bytes,
    avg(power_w) as power_w,
    any_value(energy_j) as energy_j,
    count(*) as n
from during
group by all
order by started, trace_id, span_id, gpu;

-- One row a minute, engine and GPU that it computed on, with the tokens a second that it brought there:
-- gpu_throughput_between(from, to). Our runtime names its GPU; those of vLLM and SGLang are the ones of their host, evenly.
create or replace macro gpu_throughput_between(from_t, to_t) as table
with sample as (
    select
        *,
        epoch(t) - epoch(lag(t) over (partition by instance, model order by t)) as since_s
    from engine
    where t >= from_t::timestamptz - interval 1 minute and t < to_t::timestamptz
),
rate as (  -- over the time that its samples cover: a silent engine's tokens of before are nobody's minute
    select
        time_bucket(interval 1 minute, t) as minute,
        instance,
        model,
        gpu as named,
        if(source in ('vllm', 'sglang'), split_part(instance, ':', 1), null) as guessed,
        sum(since_s) as covered_s,
        sum(prompt_tokens) / sum(since_s) as prompt_tokens_per_s,
        sum(generation_tokens) / sum(since_s) as generation_tokens_per_s
    from sample
    where t >= from_t::timestamptz and up and since_s > 0 and since_s <= 60
    group by all
),
device as (
    select distinct host, gpu
    from gpu
    where sampled_at >= from_t::timestamptz - interval 1 minute and sampled_at < to_t::timestamptz
),
sought as (  -- by its own name, and by its host's
    select gpu as sought_by, true as by_name, host, gpu
    from device
    union all
    select host as sought_by, false as by_name, host, gpu
    from device
),
placed as (
    select
        rate.*,
        sought.host,
        coalesce(named, sought.gpu) as gpu,
        count(*) over (partition by minute, instance, model, named) as gpus
    from rate
    left join sought on sought.sought_by = coalesce(named, guessed) and sought.by_name = (named is not null)
)
select
    minute,
    instance,
    model,
    host,
    gpu,
    gpus,
    prompt_tokens_per_s / gpus as prompt_tokens_per_s,
    generation_tokens_per_s / gpus as generation_tokens_per_s,
    covered_s
from placed
where gpu is not null
order by minute, instance, model, gpu;

-- One row a model call on a GPU with an energy counter, and one a GPU for what went to none: gpu_energy_between(from, to). The
-- rows of a GPU sum to what its counter grew by.
create or replace macro gpu_energy_between(from_t, to_t) as table
with placed as (
    select *
    from gpu_calls_between(from_t::timestamptz - interval 1 hour, to_t)
),
counter as (  -- what the counter had reached by the end of each second
    select host, gpu, floor(epoch(sampled_at))::bigint as s, max(energy_j) as energy_j
    from gpu
    where sampled_at >= from_t::timestamptz and sampled_at < to_t::timestamptz and energy_j is not null
    group by all
),
growth as (
    select
        host, gpu, s,
        lag(s) over series as before,
        energy_j - lag(energy_j) over series as joules
    from counter
    window series as (partition by host, gpu order by s)
),
second as (  -- seconds without a sample share what came after them; a counter that went back tells nothing
    select host, gpu, unnest(range(before + 1, s + 1)) as s, joules / (s - before) as joules
    from growth
    where joules >= 0
),
stepped as (  -- engines that told the energy of their steps
    select host, gpu
    from placed
    group by all
    having count(energy_j) > 0
),
active as (
    select placed.*, unnest(range(floor(epoch(started))::bigint, floor(epoch(ended))::bigint + 1)) as s
    from placed
),
running as (
    select
        second.host, second.gpu, second.s, second.joules,
        active.request_id, active.trace_id, active.span_id, active.model, active.output_tokens,
        epoch_us(active.ended) - epoch_us(active.started) as took_us,
        least(epoch_us(active.ended), second.s * 1000000 + 1000000) - greatest(epoch_us(active.started), second.s * 1000000) as overlap_us
    from second
    join active on active.host = second.host and active.gpu = second.gpu and active.s = second.s
    where (second.host, second.gpu) not in (select host, gpu from stepped)
),
weighed as (  -- by output tokens in this second, if they came evenly; the part of it in which no call ran is idle
    select
        running.*,
        joules * least(1e0, sum(overlap_us) over slice / 1e6) as busy_j,
        output_tokens * overlap_us / took_us / sum(output_tokens * overlap_us / took_us) over slice as share
    from running
    where overlap_us > 0
    window slice as (partition by host, gpu, s)
),
shared as (
    select request_id, trace_id, span_id, model, host, gpu, sum(busy_j * share) as energy_j, 'output tokens' as split
    from weighed
    where share between 0 and 1
    group by all
    union all
    select request_id, trace_id, span_id, model, host, gpu, energy_j, 'steps' as split
    from placed
    where energy_j is not null and ended >= from_t::timestamptz
),
idle as (
    select second.host, second.gpu, sum(joules) - coalesce(any_value(known.energy_j), 0) as energy_j
    from second
    left join (select host, gpu, sum(energy_j) as energy_j from shared group by all) as known using (host, gpu)
    group by all
)
select request_id, trace_id, span_id, model, host, gpu, energy_j, split from shared
union all
select null, null, null, null, host, gpu, energy_j, 'idle' as split from idle
order by host, gpu, split, energy_j desc, trace_id, span_id;
