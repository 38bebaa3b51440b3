-- Keeps a silence.
insert into silences by name
select
    $silence_id as silence_id, $created::timestamptz as created, $until::timestamptz as until, $labels::json as labels,
    $created_by as created_by, $comment as comment
