-- Cuts a call by the stages of its engine's span where there are any: SGLang's beat what it tells in attributes.
update call
set q = coalesce(sliced.queue_ns, q),
    -- SGLang's own figure begins before the wait
    p = coalesce(sliced.prefill_ns, if(queue_told, p, greatest(p - coalesce(sliced.queue_ns, 0), 0))),
    d = coalesce(sliced.decode_ns, d)
from (
    select
        engine,
        sum(greatest(e - greatest(s, coalesce(before, s)), 0)) filter (where stage = 'queue')::bigint as queue_ns,
        sum(greatest(e - greatest(s, coalesce(before, s)), 0)) filter (where stage = 'prefill')::bigint as prefill_ns,
        max(e) filter (where stage = 'decode') - min(s) filter (where stage = 'decode') as decode_ns
    from (  -- what the parts cover: they nest and overlap
        select
            walk.engine, node.stage, node.s, node.e,
            max(node.e) over (
                partition by walk.engine, node.stage order by node.s, node.e rows between unbounded preceding and 1 preceding
            ) as before
        from walk
        join node on node.i = walk.i
        where node.role = 'slice' and walk.engine is not null
    )
    group by engine
) as sliced
where sliced.engine = call.engine
