-- The condition that no file has a row of that identity already.
(trace_id, span_id) not in (
    select (trace_id, span_id)
    from read_parquet([{files}])
    where {time} >= make_timestamptz($from_us) and {time} < make_timestamptz($to_us)
)
