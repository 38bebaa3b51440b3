-- One row a streamed call that stalled or waited for its reader, what lost most time first, at most $rows of them.
select
    request_id,
    started,
    model,
    server_address as instance,
    coalesce(stalls, 0) as stalls,
    stall_ms,
    max_gap_ms,
    consumer_ms,
    decode_ms,
    chunks,
    outcome
from calls
where started >= $from_ts::timestamptz
    and started < $to_ts::timestamptz
    and stream
    and ($model::varchar is null or model = $model)
    and (stalls > 0 or consumer_ms > 0.2 * decode_ms)
order by greatest(coalesce(max_gap_ms, 0), coalesce(consumer_ms, 0)) desc, request_id
limit $rows
