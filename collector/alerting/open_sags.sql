-- One row a sag alert that is open; `mine` where its series is of the part that is judged now.
select alert_id, rule as series, opened, hash(rule) % $parts::ubigint = $part::ubigint as mine
from alerts
where kind = 'sag' and closed is null
