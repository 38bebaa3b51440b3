-- Gives requests that still run and bring no budget of the total that of the files of objectives. The word in braces stands for
-- limits whose conditions read what is known so far; columns that come with the span are null.
update live
set budget_ms = found.budget_ms
from (
    select trace_id, span_id, least({total}) as budget_ms
    from (
        select * from requests where false
        union all by name
        select live.* exclude (outcome), resources.version, resources.region, false as synthetic
        from live
        left join resources on resources.resource_id = live.resource_id
        where live.outcome is null and live.budget_ms is null
    ) as requests
) as found
where live.trace_id = found.trace_id and live.span_id = found.span_id and found.budget_ms is not null
