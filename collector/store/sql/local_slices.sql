-- One row a slice of time of a table here: how many different rows, and the bits of all their hashes.
select slice, count(*) as n, bit_xor(row_hash) as bits
from (
    select distinct {slice} as slice, hash(one) as row_hash
    from {table} as one
    where {within}
) as hashed
group by slice
