-- One row a stage: mean milliseconds that the bad requests of a step spent there, and the median at the lowest load. The
-- word in braces says which requests are bad, by the objectives that did not hold.
with spent as (
    select unnest($stages::varchar[]) as stage, unnest([{columns}]) as ms
    from requests
    where {bad}
),
calm as (
    select unnest($stages::varchar[]) as stage, unnest([{columns}]) as ms
    from calm_requests
)
select spent.stage, avg(spent.ms) as ms, avg(spent.ms) - coalesce(any_value(usual.ms), 0) as excess_ms
from spent
left join (select stage, median(ms) as ms from calm group by stage) as usual on usual.stage = spent.stage
group by spent.stage
having avg(spent.ms) is not null
order by excess_ms desc, spent.stage
