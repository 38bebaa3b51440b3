-- One row an objective and part that had bad events: what the incident took of its budget, and how it stands.
select
    slo_minute.objective, slo_minute.part, sum(slo_minute.n)::bigint as n, sum(slo_minute.bad)::bigint as bad,
    100 * sum(coalesce(slo_minute.bad_weight, slo_minute.bad))
        / nullif(any_value(coalesce(slo_status.requests, slo_status.n)) * (1 - any_value(slo_status.target)), 0) as budget_spent_percent,
    100 * any_value(slo_status.budget_left) as budget_left_percent, any_value(slo_status.owner) as owner
from slo_minute
left join slo_status on slo_status.objective = slo_minute.objective and slo_status.part = slo_minute.part
where minute >= $from_ts::timestamptz and minute < $to_ts::timestamptz
group by slo_minute.objective, slo_minute.part
having sum(slo_minute.bad) > 0
order by bad desc
