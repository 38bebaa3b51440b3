-- One row a body of the last day, oldest first.
select digest
from bodies
where landed >= $now::TIMESTAMPTZ - interval 1 day
order by landed
