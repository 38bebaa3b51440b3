-- Says who has taken an alert.
update alerts
set acknowledged = $now::timestamptz, acknowledged_by = $by
where alert_id = $alert_id
