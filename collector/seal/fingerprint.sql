-- One row: how many rows may be sealed of [$from_us, $to_us), and the sum of their hashes.
select count(*) as n, sum(hash({key})::hugeint) as total
from {table}
where {time} >= make_timestamptz($from_us) and {time} < make_timestamptz($to_us) and {eligible}
