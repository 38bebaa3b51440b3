-- Lands the spans of an incident and of its baseline, a day apart; of two spans with one id the first stays, as in the collector.
insert into spans_open by name
with chosen as (
    select distinct on (case_id, trace, span) *, min(start_us) over (partition by case_id) as first_us
    from read_parquet($path)
    where case_id in ($incident, $baseline)
    order by start_us
)
select
    md5(case_id || '-' || trace)::uuid as trace_id,
    span as span_id,
    parent as parent_span_id,
    op as name,
    svc as service,
    'INTERNAL' as kind,
    'UNSET' as status,
    1 as resource_id,
    'container' as role,
    '' as rule,
    '{}' as attrs,
    $start_ns + case when case_id = $incident then 86_400_000_000_000 else 0 end
        + (start_us - first_us) * 1000 as start_ns,
    start_ns + dur_us * 1000 as end_ns,
    end_ns - start_ns as duration_ns,
    make_timestamptz(start_ns // 1000) as started
from chosen
