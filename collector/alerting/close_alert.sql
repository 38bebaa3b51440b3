-- Closes an alert, never before it was opened.
update alerts
set closed = greatest($closed::timestamptz, opened)
where alert_id = $alert_id
