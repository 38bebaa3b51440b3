-- One row a span reached from a root, parents before children: what it belongs to, and its clock moved and clipped.
--   req      node of its request, null outside of any          kept     it is on the timeline of its request
--   up       the kept span above it                             gone     taken out, its children lifted
--   owner    explicit stage at or above it                      stage    stage of its own time, null for a call to be cut
--   call     nearest call at or above it                        inside   at or under an engine's span, or a call that acts as one
--   engine   nearest engine's span at or above it               serves   the call that it serves as its engine
--   us, ue   on the clock of its request                        cs, ce   the same, clipped to the spans above
create or replace temp table walk as
with recursive walk as (
    select
        0::bigint as i, 0 as depth, null::bigint as req, null::bigint as up, null::bigint as keeper, false as kept, false as gone,
        null::varchar as service, null::varchar as owner, null::varchar as stage, null::bigint as call,
        null::varchar as call_service, false as plan, false as inside, null::bigint as engine, null::bigint as serves,
        0::bigint as shift, 0::bigint as us, 0::bigint as ue, 0::bigint as cs, 0::bigint as ce
    union all
    select
        i, depth, req, case when not fresh then up end as up, case when gone then up else i end as keeper,
        req is not null and not gone as kept, gone,
        case when gone then up_service else service end as service,
        case when gone then up_owner else coalesce(own, up_owner) end as owner,
        case
            when gone then up_stage
            when role in ('call', 'engine') then coalesce(own, up_owner)
            else coalesce(own, up_owner, own_stage, up_stage, case when role = 'network' then 'other' end)
        end as stage,
        case
            when not gone and role in ('call', 'engine') then i
            when role = 'twin' then coalesce(becomes, up_call)
            when gone or role <> 'stage' then up_call
        end as call,
        case when not gone and role in ('call', 'engine') or role = 'twin' then service else up_call_service end as call_service,
        up_plan or plan as plan,
        up_inside or role = 'engine' or acts as inside,
        coalesce(up_engine, if(role = 'engine', i, null)) as engine,
        case when gone and (acts or role = 'engine' and up_engine is null) then coalesce(up_call, answers) end as serves,
        case when gone then up_shift else up_shift + moved end as shift,
        case when gone then up_us else s + moved end as us,
        case when gone then up_ue else e + moved end as ue,
        case when gone then up_cs when clipped then least(greatest(s + moved, up_cs), up_ce) else s end as cs,
        case when gone then up_ce when clipped then least(greatest(e + moved, up_cs), up_ce) else e end as ce
    from (
        select
            * replace (s + up_shift as s, e + up_shift as e),
            up_req is not null as clipped,
            -- On the clock of another service and not within its parent: moved to the parent's middle. One that starts
            -- within and lasts longer than its parent outlived it; that says nothing about clocks.
            case
                when up_req is not null and not gone and service is distinct from up_service and kind <> 'CONSUMER'
                    and (s + up_shift < up_us or e + up_shift > up_ue)
                    and not (s + up_shift between up_us and up_ue and e - s > up_ue - up_us)
                then (up_us + up_ue - (s + e + 2 * up_shift)) // 2
                else 0
            end as moved
        from (
            select
                *,
                coalesce(up_req, case when fresh then i end) as req,
                not fresh and (
                    up_inside or acts
                    or role in ('ignored', 'tail', 'twin')
                    or role = 'engine' and (up_call is not null or answers is not null)
                    or role = 'network' and (up_call is not null or coalesce(up_stage, 'other') <> 'other' or up_owner is not null)
                    or role = 'container' and up_call is not null
                ) as gone
            from (
                select
                    node.i, node.role, node.kind, node.service, node.s, node.e, node.own, node.stage as own_stage, node.answers,
                    node.becomes, node.plan,
                    walk.depth + 1 as depth,
                    walk.req is null and node.candidate and not walk.inside as fresh,
                    -- behind another service the call that a call makes is part of it, as an engine is
                    node.role = 'call' and not fresh and (
                        node.answers is not null
                        or walk.call is not null and node.service is distinct from walk.call_service
                    ) as acts,
                    walk.req as up_req, walk.inside as up_inside, walk.engine as up_engine, walk.plan as up_plan,
                    case when not fresh then walk.call_service end as up_call_service,
                    case when not fresh then walk.keeper end as up,
                    case when not fresh then walk.service end as up_service,
                    case when not fresh then walk.owner end as up_owner,
                    case when not fresh then walk.stage end as up_stage,
                    case when not fresh then walk.call end as up_call,
                    case when walk.req is null then 0 else walk.shift end as up_shift,
                    walk.us as up_us, walk.ue as up_ue, walk.cs as up_cs, walk.ce as up_ce
                from walk
                join node on node.p = walk.i
                where walk.depth < 512  -- deeper spans are left to their ancestors: a step costs about a millisecond
            )
        )
    )
),
first_call as (
    select walk.req, min(walk.cs) as cs
    from walk
    join node on node.i = walk.i
    where walk.kept and node.role in ('call', 'engine')
    group by walk.req
)
select
    walk.i, walk.req, walk.up, walk.kept, walk.gone, walk.owner, walk.call, walk.plan, walk.engine, walk.serves, walk.shift,
    walk.us, walk.ue, walk.cs, walk.ce,
    node.trace_id, node.span_id, node.m, node.role, node.s, node.e, node.root_kind, node.becomes, node.parent_failed, node.framework, node.service,
    case
        when walk.stage is distinct from 'guard' then walk.stage
        when walk.cs >= first_call.cs then 'post'
        else 'prompt'
    end as stage,
    walk.kept and walk.stage is null and node.role in ('call', 'engine') as cut
from walk
join node on node.i = walk.i
left join first_call on first_call.req = walk.req
