-- One row a slice of time of a table in the store, of one collector: how many rows, and the bits of all their hashes.
select {slice} as slice, count() as n, groupBitXor(_hash) as bits
from {table}_kept final
where _collector = {collector} and {within}
group by slice
