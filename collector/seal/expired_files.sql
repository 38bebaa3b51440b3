-- One row a file of which every row is older than $until_us: file, view, n.
select file, "view", n
from sealed_files
where last < make_timestamptz($until_us)
order by last, file
