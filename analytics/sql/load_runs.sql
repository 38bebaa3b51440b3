-- One row a load run that ended in a window, the newest first: how many steps and requests it had, and its knee.
select
    run_id,
    max(ended) as ended,
    any_value(unit) as unit,
    count(*) as steps,
    sum(n)::bigint as n,
    max(offered) filter (holds and offered < coalesce(lowest_bad, 'inf'::double)) as knee
from (
    select *, min(offered) filter (not holds) over (partition by run_id) as lowest_bad
    from load_steps
    where ended >= $from_ts::timestamptz and ended < $to_ts::timestamptz
)
group by run_id
order by ended desc, run_id
