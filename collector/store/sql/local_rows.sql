-- One row a row of a stretch of time of a table here, with its hash.
select one.*, hash(one) as _hash
from {table} as one
where {within}
