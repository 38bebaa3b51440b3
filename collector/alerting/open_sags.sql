-- One row a sag alert that is open.
select alert_id, rule as series, opened
from alerts
where kind = 'sag' and closed is null
