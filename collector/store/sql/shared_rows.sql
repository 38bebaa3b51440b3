-- One row a row with one of these hashes of a stretch of time of a table in the store, of one collector.
select {columns}, _hash
from {table}_kept final
where _collector = {collector} and {within} and _hash in ({hashes})
