-- One row a step of a load run and a stage that took time: its mean milliseconds, and its share of the critical path.
with bounds as (
    select min(ended - to_seconds(lasted_s)) - interval 10 minutes as since, max(ended) + interval 1 minute as until
    from load_steps
    where run_id = $run_id
),
sent as (
    select trace_id, step, offered
    from load_requests
    where run_id = $run_id and planned between (select since from bounds) and (select until from bounds)
),
spent as (
    select
        sent.step, sent.offered, unnest($stages::varchar[]) as stage,
        unnest([
            network_ms, queue_ms, retrieval_ms, prompt_ms, prefill_ms, decode_ms, tools_ms, post_ms, other_ms
        ]) as spent_ms
    from requests
    join sent using (trace_id)
    where requests.run_id = $run_id and requests.started between (select since from bounds) and (select until from bounds)
)
select
    step,
    offered,
    stage,
    count(*) as n,
    avg(spent_ms) as ms,
    avg(spent_ms) / nullif(sum(avg(spent_ms)) over (partition by step), 0) as share
from spent
group by step, offered, stage
having avg(spent_ms) > 0
order by offered, step, list_position($stages::varchar[], stage)
