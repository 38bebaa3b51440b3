-- At most one row: from when on retention has ended nothing of a table here.
select since
from retained
where relation = '{table}'
