-- One row: whether a span of a window is stored, of whatever.
select exists(
    select 1
    from spans
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
) as found;
