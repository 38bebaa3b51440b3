-- One row a row of a slice of time of a table in the store, of one collector, with its hash.
select {columns}, _hash
from {table}_kept final
where _collector = {collector} and {within} and (_hash in ({hashes})) = {those}
