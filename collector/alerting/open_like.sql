-- One row an open alert whose id is this, or begins with it and ends there or at the next `|`.
select alert_id
from alerts
where closed is null and (alert_id = $alert or starts_with(alert_id, rtrim($alert, '|') || '|'))
order by alert_id
