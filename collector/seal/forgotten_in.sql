-- A row when {file} holds a row of what is forgotten.
select 1
from read_parquet({file}) as {table}
where {condition}
limit 1
