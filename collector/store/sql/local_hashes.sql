-- One row a different row of a stretch of time of a table here: its hash.
select distinct hash(one) as _hash
from {table} as one
where {within}
