-- One row a sample of one engine and model: its points of one instant side by side; counters are what came since the last.
insert into engine by name
select make_timestamptz(point.t_ns // 1000) as t,
       coalesce(point.attrs ->> '$.instance', resource.instance, '') as instance,
       point.attrs ->> '$.model' as model,
       point.attrs ->> '$."hw.id"' as gpu,
       resource.service as source,
       coalesce(max(value) filter (where metric.engine_column = 'up') > 0, true) as up,
       max(value) filter (where metric.engine_column = 'running') as running,
       max(value) filter (where metric.engine_column = 'waiting') as waiting,
       max(value) filter (where metric.engine_column = 'kv_used') as kv_used,
       max(value) filter (where metric.engine_column = 'batch_tokens') as batch_tokens,
       max(value) filter (where metric.engine_column = 'step_ms') * 1000 as step_ms,
       max(value) filter (where metric.engine_column = 'prefix_queries') as prefix_queries,
       max(value) filter (where metric.engine_column = 'prefix_hits') as prefix_hits,
       max(value) filter (where metric.engine_column = 'prompt_tokens') as prompt_tokens,
       max(value) filter (where metric.engine_column = 'generation_tokens') as generation_tokens,
       max(value) filter (where metric.engine_column = 'drafts') as drafts,
       max(value) filter (where metric.engine_column = 'accepted') as accepted,
       max(value) filter (where metric.engine_column = 'preemptions') as preemptions,
       max(value) filter (where metric.engine_column = 'steps') as steps
from (
    select * replace (if(isfinite(value), value, null) as value)
    from batch_metrics
    where temporality is distinct from 'cumulative'
) point
join (select unnest($names) as name, unnest($columns) as engine_column) metric using (name)
left join batch_resources resource using (resource_id)
group by all
