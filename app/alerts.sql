-- One row an alert that is open, or that closed since $since, the newest first.
select
    alerts.alert_id, alerts.opened, alerts.closed,
    case
        when alerts.closed is not null then 'resolved'
        when alerts.fires > now() then 'pending'
        when alerts.acknowledged is not null then 'acknowledged'
        else 'firing'
    end as state,
    alerts.severity, alerts.kind, alerts.owner, alerts.acknowledged_by, alerts.summary,
    coalesce(told.channels, []) as told, coalesce(told.waiting, []) as waiting
from alerts
left join (
    select
        alert_id, list(distinct channel order by channel) filter (where delivered is not null) as channels,
        list(distinct channel order by channel) filter (where delivered is null) as waiting
    from deliveries
    group by alert_id
) as told on told.alert_id = alerts.alert_id
where alerts.closed is null or alerts.closed >= $since::timestamptz
order by alerts.opened desc, alerts.alert_id
