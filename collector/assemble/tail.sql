-- One row a record that tells how a streamed call went on after its span ended, and its call: in one trace, of the calls
-- that know no output tokens the one that ended when the stream began. The call lasts as long.
insert into tail
select tail.i, arg_min(call.i, (call.p <> tail.p, abs(tail.e - coalesce(told.streamed_ns, 0) - call.e), call.i)) as call
from node as tail
join member as told on told.rowid = tail.m
join node as call on call.trace_id = tail.trace_id and call.service is not distinct from tail.service and call.s <= tail.s
join member as said on said.rowid = call.m
where tail.role = 'tail' and call.role = 'call' and said.output_tokens is null
  and said.model is not distinct from coalesce(told.model, said.model)
group by tail.i;

update node
set e = greatest(node.e, last.e)
from (select tail.call, max(node.e) as e from tail join node on node.i = tail.i group by tail.call) as last
where node.i = last.call
