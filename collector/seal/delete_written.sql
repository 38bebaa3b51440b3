-- Deletes the rows of [$from_us, $to_us) that {file} holds.
delete from {table}
where {time} >= make_timestamptz($from_us) and {time} < make_timestamptz($to_us)
  and hash({table}) in (select hash(written) from read_parquet({file}) as written)
