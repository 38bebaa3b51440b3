-- A row when {file} holds rows of a forgotten trace.
select 1
from read_parquet({file})
where trace_id in (from forgotten)
limit 1
