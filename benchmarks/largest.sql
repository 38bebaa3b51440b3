-- One row a service, by the time that its spans take without their children: the largest first.
with child as (
    select trace_id, parent_span_id as span_id, sum(duration_ns) as ns
    from spans
    group by all
)
select service
from spans
left join child using (trace_id, span_id)
where started >= $from_ts
group by service
order by sum(greatest(duration_ns - coalesce(ns, 0), 0)) desc, service
