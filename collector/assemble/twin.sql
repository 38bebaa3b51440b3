-- One row a call and the inner call that it stands for: several instrumentations saw one call, and the inner one is it.
-- level 1 is the nearest; alone says that the outer stands for this inner one only, not for several attempts.
insert into twin
with recursive seen as (
    select
        node.i, node.p, node.trace_id, node.service, node.s, node.e, node.own, member.response_id, member.scope, member.model,
        member.input_tokens, member.output_tokens
    from node
    join member on member.rowid = node.m
    where node.role = 'call'
),
climb as (  -- nested in one service, with no stage between
    select i as inner_call, p as at, service
    from seen
    union all
    select climb.inner_call, node.p, climb.service
    from climb
    join node on node.i = climb.at
    where node.role in ('container', 'network', 'ignored') and node.own is null and node.stage is null and not node.candidate
),
nested as (
    select seen.i as outer_call, climb.inner_call
    from climb
    join seen on seen.i = climb.at
    where seen.own is null and seen.service is not distinct from climb.service
),
same_answer as (  -- one answer at one time, seen by two instrumentations: caches replay ids and share answers
    select early.i as outer_call, arg_max(late.i, (late.s, late.i)) as inner_call
    from seen as early
    join seen as late on late.response_id = early.response_id and late.s < early.e and early.s < late.e
    where (early.s, early.i) < (late.s, late.i) and late.service is not distinct from early.service
      and late.scope is distinct from early.scope
    group by early.i
),
around as (  -- another instrumentation's call of the same model that holds it
    select
        early.i as outer_call, early.scope as outer_scope, late.i as inner_call, late.scope as inner_scope, late.p as inner_p,
        late.s - early.s + early.e - late.e as excess
    from seen as early
    join seen as late on late.trace_id = early.trace_id and late.s >= early.s and late.e <= early.e
    where early.i <> late.i and (late.s > early.s or late.e < early.e or late.i > early.i)
      and late.scope <> early.scope and late.service is not distinct from early.service and early.own is null
      and (starts_with(late.model, early.model) or starts_with(early.model, late.model))
      and coalesce(late.input_tokens = early.input_tokens, true) and coalesce(late.output_tokens = early.output_tokens, true)
      and coalesce(late.response_id = early.response_id, true)
),
line as (  -- who is above whom, for those
    select inner_call, inner_p as at from around
    union
    select line.inner_call, node.p from line join node on node.i = line.at
),
beside as (  -- each the other's tightest, and not if it would make two calls of one scope the same
    select outer_call, inner_call
    from around
    anti join line on line.inner_call = around.inner_call and line.at = around.outer_call
    anti join around as before
      on before.inner_call = around.outer_call and before.outer_scope = around.inner_scope and before.excess < around.excess
    anti join around as after
      on after.outer_call = around.inner_call and after.inner_scope = around.outer_scope and after.excess < around.excess
    qualify row_number() over (partition by around.inner_call order by around.excess, outer_call) = 1
        and row_number() over (partition by outer_call order by around.excess, around.inner_call) = 1
),
pair as (
    select * from nested
    union
    select * from same_answer anti join nested on nested.outer_call = same_answer.inner_call and nested.inner_call = same_answer.outer_call
    union
    select * from beside
),
reach as (
    select outer_call, inner_call, 1 as level from pair where inner_call not in (select outer_call from pair)
    union
    select pair.outer_call, reach.inner_call, reach.level + 1
    from reach
    join pair on pair.inner_call = reach.outer_call
    where reach.level < 8
)
select outer_call, inner_call, min(level) as level, count(*) over (partition by outer_call) = 1 as alone
from reach
where outer_call <> inner_call
group by outer_call, inner_call;

update node
set role = 'twin', becomes = last.inner_call
from (
    select twin.outer_call, arg_max(twin.inner_call, (node.s, node.i)) as inner_call
    from twin
    join node on node.i = twin.inner_call
    group by twin.outer_call
) as last
where node.i = last.outer_call;

update node
set answers = twin.becomes
from node as twin
where node.answers = twin.i and twin.role = 'twin'
