-- At most one row: the file whose newest row is the oldest.
select file, "view", n
from sealed_files
order by last, file
limit 1
