-- One row an alert that was open in the window.
select opened, closed, kind, severity, owner, acknowledged_by, summary, runbook
from alerts
where opened < $to_ts::timestamptz and coalesce(closed, $to_ts::timestamptz) >= $from_ts::timestamptz
order by opened
