-- One row a mark from an hour before the window to its end.
select t, kind, service, label, created_by
from marks
where t >= $from_ts::timestamptz - interval 1 hour and t < $to_ts::timestamptz
order by t
