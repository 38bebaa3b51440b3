-- One row a span in a stage of one request, in the order of their starts; room_from_ms and room_to_ms on the first span of a stage with a budget.
with parts as (
    select
        *,
        row_number() over (partition by stage order by offset_ms, duration_ms desc, span_id) as place
    from stage_spans
    where request_id = $request_id
        and trace_id = $trace_id::uuid
)
select
    row_number() over (order by parts.offset_ms, parts.duration_ms desc, parts.span_id, parts.stage) as row,
    parts.stage,
    parts.name,
    parts.peer,
    parts.outcome,
    parts.offset_ms as from_ms,
    parts.offset_ms + parts.duration_ms as to_ms,
    parts.duration_ms,
    parts.critical_ms,
    stages.budget_ms,
    stages.over_ms,
    case when place = 1 and stages.budget_ms is not null then parts.offset_ms end as room_from_ms,
    case when place = 1 then parts.offset_ms + stages.budget_ms end as room_to_ms,
    max(greatest(
        parts.offset_ms + parts.duration_ms, coalesce(case when place = 1 then parts.offset_ms + stages.budget_ms end, 0)
    )) over () as until_ms
from parts
left join stages using (request_id, trace_id, stage)
order by row;
