-- One row a call that another call lies under in the same service with no stage between: the inner one is the call.
create or replace temp table twin as
with recursive climb as (
    select i as inner_call, p as at, service
    from node
    where role = 'call'
    union all
    select climb.inner_call, node.p, climb.service
    from climb
    join node on node.i = climb.at
    where node.role in ('container', 'network', 'ignored') and node.own is null and node.stage is null and not node.candidate
)
select node.i as outer_call, min(climb.inner_call) as inner_call, count(*) as inner_calls
from climb
join node on node.i = climb.at
where node.role = 'call' and node.own is null and node.service is not distinct from climb.service
group by node.i;

update node
set role = 'twin'
where i in (select outer_call from twin)
