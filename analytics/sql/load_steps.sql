-- One row a step of a load run, the lowest load first, with the run's knee: the highest load below the first that broke.
with step as (
    select
        step, unit, coalesce(offered, per_s) as offered, n, per_s, goodput_per_s, holds, broke_stage,
        p50_ms, p95_ms, p99_ms, ttft_p95_ms, late_p99_ms,
        min(offered) filter (not holds) over () as lowest_bad
    from load_steps
    where run_id = $run_id
)
select
    * exclude (lowest_bad),
    case when holds then 'holds' when not holds then 'broke' else 'no objective' end as state,
    max(offered) filter (holds and offered < coalesce(lowest_bad, 'inf'::double)) over () as knee
from step
order by offered, step
