-- One row an open alert whose id is this, or begins with it.
select alert_id
from alerts
where closed is null and (alert_id = $alert or (starts_with(alert_id, $alert) and $alert not in (select alert_id from alerts)))
