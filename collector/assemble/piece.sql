-- One row a stretch of a request's critical path in one stage: req, i (its span), stage, a and b (nanoseconds).
create or replace temp table piece as
with edges as (
    select
        i, us, us + lead as after_lead, us + lead + network as after_network, us + lead + network + queue as after_queue,
        us + lead + network + queue + prefill as after_prefill, ue - rest as after_decode, ue, edge
    from call
),
phase as (
    select
        i,
        unnest([edge, 'network', 'queue', 'prefill', 'decode', edge]) as stage,
        unnest([us, after_lead, after_network, after_queue, after_prefill, after_decode]) as a,
        unnest([after_lead, after_network, after_queue, after_prefill, after_decode, ue]) as b
    from edges
)
select walk.req, path.i, coalesce(walk.stage, 'other') as stage, path.a, path.b, true as critical
from path
join walk on walk.i = path.i
where not walk.cut
union all
select walk.req, path.i, phase.stage, greatest(path.a, phase.a), least(path.b, phase.b), true
from path
join walk on walk.i = path.i
join phase on phase.i = path.i and phase.a < path.b and phase.b > path.a
where walk.cut
union all  -- what the spans of a stage cover, on the path or not
select req, i, stage, cs, ce, false
from walk
where kept and not cut and stage is not null
union all
select walk.req, walk.i, phase.stage, greatest(walk.cs, phase.a), least(walk.ce, phase.b), false
from walk
join phase on phase.i = walk.i and phase.b > phase.a and phase.a <= walk.ce and phase.b >= walk.cs
where walk.kept and walk.cut
