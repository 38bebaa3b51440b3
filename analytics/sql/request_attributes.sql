-- One row an attribute of a span of one trace, in the order of the spans' starts.
with own as (
    select *
    from spans
    where trace_id = $trace_id::uuid
)
select
    own.name as span,
    own.service,
    own.stage,
    attribute.key,
    attribute.value->>'$' as value
from own, json_each(own.attrs) as attribute
order by own.start_ns, own.span_id, attribute.key;
