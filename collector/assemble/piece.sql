-- One row a stretch of time in one stage: req, i (its span), stage, a and b (nanoseconds). critical: on the request's
-- critical path; covers: what the spans of a stage cover, on the path or not, and what of the path no span explains.
create or replace temp table piece as
with edges as (
    select
        i, us, us + lead as after_lead, us + lead + network as after_network, us + lead + network + queue as after_queue,
        us + lead + network + queue + prefill as after_prefill, ue - rest as after_decode, ue, edge
    from cut
),
phase as (
    select
        i,
        unnest([edge, 'network', 'queue', 'prefill', 'decode', edge]) as stage,
        unnest([us, after_lead, after_network, after_queue, after_prefill, after_decode]) as a,
        unnest([after_lead, after_network, after_queue, after_prefill, after_decode, ue]) as b
    from edges
)
select walk.req, path.i, coalesce(walk.stage, 'other') as stage, path.a, path.b, true as critical, walk.stage is null as covers
from path
join walk on walk.i = path.i
where not walk.cut
union all
select walk.req, path.i, phase.stage, greatest(path.a, phase.a), least(path.b, phase.b), true, false
from path
join walk on walk.i = path.i
join phase on phase.i = path.i and phase.a < path.b and phase.b > path.a
where walk.cut
union all
select req, i, stage, cs, ce, false, true
from walk
where kept and not cut and stage is not null
union all
select walk.req, walk.i, phase.stage, greatest(walk.cs, phase.a), least(walk.ce, phase.b), false, true
from walk
join phase on phase.i = walk.i and phase.b > phase.a and phase.a <= walk.ce and phase.b >= walk.cs
where walk.kept and walk.cut
