-- Deletes the rows of [$from_us, $to_us) that may be sealed.
delete from {table}
where {time} >= make_timestamptz($from_us) and {time} < make_timestamptz($to_us) and {eligible}
