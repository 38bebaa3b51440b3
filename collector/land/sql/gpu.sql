-- One row a sample of one GPU: its points of one instant side by side; what is no number, or too large, is null.
insert into gpu by name
select make_timestamptz(point.t_ns // 1000) as sampled_at,
       coalesce(point.attrs ->> '$."host.id"', resource.attrs ->> '$."host.id"', '') as host,
       coalesce(point.attrs ->> '$."hw.id"', '') as gpu,
       max(value) filter (where metric.gpu_column = 'util') as util,
       try_cast(max(value) filter (where metric.gpu_column = 'mem_used_bytes') as BIGINT) as mem_used_bytes,
       max(value) filter (where metric.gpu_column = 'mem_util') as mem_util,
       max(value) filter (where metric.gpu_column = 'sm_mhz') as sm_mhz,
       max(value) filter (where metric.gpu_column = 'mem_mhz') as mem_mhz,
       max(value) filter (where metric.gpu_column = 'power_w') as power_w,
       max(value) filter (where metric.gpu_column = 'power_limit_w') as power_limit_w,
       max(value) filter (where metric.gpu_column = 'energy_j') as energy_j,
       max(value) filter (where metric.gpu_column = 'temp_c') as temp_c,
       try_cast(max(value) filter (where metric.gpu_column = 'throttle') as BIGINT) as throttle,
       coalesce(max(value) filter (where metric.gpu_column = 'up') > 0, true) as up,
       try_cast(max(value) filter (where metric.gpu_column = 'mem_limit_bytes') as BIGINT) as mem_limit_bytes,
       max(point.attrs ->> '$."slo.gpu.missing"') as missing
from (select * replace (if(isfinite(value), value, null) as value) from batch_metrics) point
join (select unnest($names) as name, unnest($columns) as gpu_column) metric using (name)
left join batch_resources resource using (resource_id)
group by all
