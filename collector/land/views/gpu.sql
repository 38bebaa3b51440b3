-- Who holds a GPU's memory; made anew at every start, so that files of earlier versions have it too.

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
