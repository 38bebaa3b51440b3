-- One row an attribute of a span of one trace, in the order of the spans' starts.
with own as (
    select *
    from spans
    where trace_id = $trace_id::uuid
),
keyed as (
    select own.*, unnest(json_keys(attrs)) as key
    from own
)
select
    name as span,
    service,
    stage,
    key,
    attribute(attrs, key) as value
from keyed
order by start_ns, span_id, key;
