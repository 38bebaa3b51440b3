-- One row a row of {file} that is kept.
select * replace ({blobs})
from read_parquet({file}) as {table}
where not coalesce({condition}, false)
order by {time}
