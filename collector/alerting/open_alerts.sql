-- One row an alert of these kinds that is open.
select alert_id, kind, rule, severity, opened, labels, fires
from alerts
where kind in (select unnest($kinds::varchar[])) and closed is null
