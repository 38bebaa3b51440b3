-- One row a row of {file} that is kept.
select * replace ({blobs})
from read_parquet({file})
where trace_id is null or trace_id not in (from forgotten)
order by {time}
