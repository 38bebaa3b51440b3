-- One row a row of [$from_us, $to_us) to be sealed; of spans that came more than once, the one that ended last.
select * replace ({blobs})
from {table} as slice
where {time} >= make_timestamptz($from_us) and {time} < make_timestamptz($to_us) and {eligible} and {unsealed}
{latest}
order by {time}
