-- One row a delivery of the messages that are due: the oldest of each channel and group, once its time has come.
select delivery_id, message_id, channel, grouped_by, created, attempts, content
from deliveries
where next_attempt <= $now::timestamptz
    and not exists (
        from deliveries as earlier
        where earlier.channel = deliveries.channel and earlier.grouped_by = deliveries.grouped_by
            and earlier.created < deliveries.created and earlier.next_attempt is not null
    )
order by created, message_id, delivery_id
