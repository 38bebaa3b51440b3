-- One row a stage of one request, in order, also those without time.
with named as (
    select unnest($stages::varchar[]) as stage
),
own as (
    select *
    from stages
    where request_id = $request_id
        and trace_id = $trace_id::uuid
)
select
    named.stage,
    coalesce(spans, 0) as spans,
    busy_ms,
    critical_ms,
    budget_ms,
    over_ms
from named
left join own using (stage)
order by list_position($stages::varchar[], named.stage);
