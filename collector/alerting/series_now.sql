-- One row: how many series decoded anything in the last hour.
select count(distinct series) as series
from decode_rate
where t >= $now::timestamptz - interval 1 hour
