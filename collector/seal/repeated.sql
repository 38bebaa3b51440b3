-- A row when two rows of [$from_us, $to_us) have the same key.
select 1
from {table}
where {time} >= make_timestamptz($from_us) and {time} < make_timestamptz($to_us) and {eligible}
having count(*) > count(distinct hash({key}))
