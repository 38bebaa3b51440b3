-- One row a stored span of a ripe trace, without what only a reader of spans wants.
create or replace temp table member as
select
    * exclude (attrs, started, duration_ns),
    case when chunks is not null then attrs ->> '$."slo.stream.gaps"' end as gaps,
    case when contains(attrs::varchar, '"w3c.tracestate"') then sampled_weight(attrs ->> '$."w3c.tracestate"') end as weight,
    case when role = 'engine' then try_cast(attrs ->> '$."slo.batch.size"' as double) end as batch_size,
    case when role = 'engine' then try_cast(attrs ->> '$."slo.gpu.energy"' as double) end as energy_j
from spans_open
where trace_id in (select trace_id from ripe) and started between make_timestamptz($from_us) and make_timestamptz($to_us)
