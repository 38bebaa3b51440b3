-- One row: how long the trace has waited that was ripe for assembly first (root seen, or 10 s of silence), null for none.
with ripe as (
    select case when root_seen then last_arrival else last_arrival + interval 10 second end as ripe_at
    from dirty
    where root_seen or trace_id not in (select trace_id from live where outcome is null)
)
select epoch($now::timestamptz) - epoch(min(ripe_at)) as lag_s
from ripe
where ripe_at < $now::timestamptz;
