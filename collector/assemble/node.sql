-- One row a span to place, the latest version where a span was stored twice, numbered by ids so that no tie depends on
-- arrival: i, p (its parent, 0 for a root), m (row of member, null for a stand-in), s and e (nanoseconds; a call lasts
-- until its last event, since some dialects end the span of a stream before its first token).
create or replace temp table node as
with recursive latest as (
    select
        trace_id, span_id, arg_max(rowid, (end_ns, start_ns, name)) as m
    from member
    group by trace_id, span_id
),
numbered as (  -- narrow, since all of it is sorted
    select m, row_number() over (order by trace_id, span_id) as i from latest
),
known as (
    select
        numbered.i, member.trace_id, member.span_id, numbered.m, member.kind, member.service, member.scope, member.role, member.stage, member.rule,
        nullif(member.parent_span_id, member.span_id) as parent_span_id,
        member.request is not null as marked,
        member.response_id,
        member.operation = 'plan' and member.role = 'container' as plan,
        member.status = 'ERROR' as failed,
        least(greatest(member.start_ns, 0), 4000000000000000000) as s,  -- two of them still add up within BIGINT
        least(
            greatest(
                member.end_ns, member.start_ns, 0, if(member.role = 'call', member.start_ns + member.last_event_ns, null)
            ),
            4000000000000000000
        ) as e
    from numbered
    join member on member.rowid = numbered.m
),
standin as (  -- of a parent that never came and has several children
    select
        (select count(*) from latest) + row_number() over (order by child.trace_id, child.parent_span_id) as i,
        child.trace_id, child.parent_span_id as span_id, null::bigint as m, 'UNSPECIFIED' as kind,
        arg_min(child.service, (child.s, child.i)) as service,  -- of the first of them
        'container' as role, null as stage, 'missing parent' as rule, null::ubigint as parent_span_id, false as marked,
        null as response_id, false as plan, false as failed, min(child.s) as s, max(child.e) as e
    from known as child
    anti join known as parent on parent.trace_id = child.trace_id and parent.span_id = child.parent_span_id
    where child.parent_span_id is not null
    group by child.trace_id, child.parent_span_id
    having count(*) > 1
),
placed as (
    select * from known union all by name select * from standin
),
linked as (
    select placed.*, coalesce(parent.i, 0) as p, coalesce(parent.failed, false) as parent_failed
    from placed
    left join placed as parent on parent.trace_id = placed.trace_id and parent.span_id = placed.parent_span_id
),
served as (  -- an HTTP client span ends at the response's headers: it lasts as long as what it called
    select client.i, max(server.e) as e
    from linked as client
    join linked as server on server.p = client.i and server.s between client.s and client.e
    where client.role = 'network' and server.kind = 'SERVER'
    group by client.i
),
answered as (  -- the call that an engine's span, or the call of a service behind, answers by response id: the first to start
    select
        inside.i,
        arg_min(call.i, (call.trace_id <> inside.trace_id, call.s, call.i)) as call
    from linked as inside
    join linked as call on call.response_id = inside.response_id and call.s <= inside.e and call.e >= inside.s
    where call.role = 'call'
      and (
          inside.role = 'engine'
          or inside.role = 'call' and inside.service is distinct from call.service
              and inside.scope is distinct from call.scope and (call.s, call.i) < (inside.s, inside.i)
      )
    group by inside.i
),
inbound as (
    select i, p from linked where kind in ('SERVER', 'CONSUMER') and role in ('container', 'stage', 'call')
),
climb as (  -- what lies above a span that was served
    select i, p as at from inbound where p > 0
    union
    select climb.i, linked.p from climb join linked on linked.i = climb.at where linked.p > 0 and linked.role <> 'call'
),
outward as (  -- served to a user, not to a model call
    select i
    from inbound
    where i not in (select climb.i from climb join linked on linked.i = climb.at where linked.role = 'call')
),
chosen as (  -- what counts as a request in a trace
    select
        trace_id,
        case
            when bool_or(marked) then 'slo'
            when bool_or(i in (select i from outward)) then 'server'
            else 'root'
        end as root_kind
    from linked
    group by trace_id
)
select
    linked.i, linked.p, linked.m, linked.trace_id, linked.span_id, linked.service, linked.role, linked.kind,
    linked.s, greatest(linked.e, coalesce(served.e, linked.e)) as e,
    answered.call as answers, null::bigint as becomes, linked.plan, linked.parent_failed,
    ends_with(linked.rule, ' container') as framework,
    case when starts_with(linked.rule, 'slo.stage') then linked.stage end as own,
    case
        when starts_with(linked.rule, 'slo.stage') then null
        when starts_with(linked.rule, 'guard') then 'guard'  -- prompt or post, once the request's first call is known
        else linked.stage
    end as stage,
    chosen.root_kind,
    answered.call is null and case chosen.root_kind
        when 'slo' then linked.marked
        when 'server' then linked.i in (select i from outward)
        else linked.p = 0
    end as candidate
from linked
join chosen on chosen.trace_id = linked.trace_id
left join served on served.i = linked.i
left join answered on answered.i = linked.i
