-- A row when {file} holds rows to forget.
select 1
from read_parquet({file}) as {table}
where {condition}
limit 1
