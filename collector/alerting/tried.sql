-- Writes down how an attempt at a message ended.
update deliveries
set
    attempts = attempts + 1, next_attempt = $next_attempt::timestamptz, delivered = $delivered::timestamptz, error = $error,
    content = case when $next_attempt::timestamptz is not null then content end
where message_id = $message_id
