-- Says who has taken alerts.
update alerts
set acknowledged = $now::timestamptz, acknowledged_by = $by
where list_contains($taken::varchar[], alert_id)
