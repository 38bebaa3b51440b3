-- Decides that a channel is told of a transition.
insert or ignore into deliveries by name
select
    $delivery_id as delivery_id, $message_id as message_id, $alert_id as alert_id, $transition as transition,
    $channel as channel, $grouped_by as grouped_by, $created::timestamptz as created, 0 as attempts,
    $created::timestamptz as next_attempt, null::timestamptz as delivered, null::varchar as error, $content::json as content
