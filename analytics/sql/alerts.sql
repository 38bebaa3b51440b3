-- One row an alert that was open in a window, open ones first, then the newest.
select
    alert_id,
    kind,
    rule,
    severity,
    opened,
    closed,
    model,
    provider,
    instance,
    value,
    threshold,
    summary,
    scope,
    owner,
    runbook,
    acknowledged,
    acknowledged_by
from alerts
where opened < $to_ts::timestamptz
    and (closed is null or closed >= $from_ts::timestamptz)
order by closed is not null, opened desc, alert_id;
