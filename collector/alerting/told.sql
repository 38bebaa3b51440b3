-- One row an alert that is open, or closed after somebody was told of it: what each channel was told last, and when.
select
    alerts.*,
    coalesce(last.channels, []) as channels, coalesce(last.transitions, []) as transitions,
    coalesce(last.times, []) as times, coalesce(last.waiting, []) as waiting
from alerts
left join (
    select
        alert_id, list(channel order by channel) as channels, list(transition order by channel) as transitions,
        list(created order by channel) as times, list(waits order by channel) as waiting
    from (
        select
            alert_id, channel, arg_max(transition, created) as transition, max(created) as created,
            arg_max(next_attempt is not null, created) as waits
        from deliveries
        group by alert_id, channel
    )
    group by alert_id
) as last on last.alert_id = alerts.alert_id
where alerts.closed is null or (alerts.closed > $since::timestamptz and not list_has_all(['resolved'], coalesce(last.transitions, [])))
