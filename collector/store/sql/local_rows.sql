-- One row a different row of a slice of time of a table here, with its hash.
select distinct one.*, hash(one) as _hash
from {table} as one
where {within}
