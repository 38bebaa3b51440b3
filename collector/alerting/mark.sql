-- Keeps a mark that somebody made.
insert into marks by name
select
    $mark_id as mark_id, coalesce($t::timestamptz, $now::timestamptz) as t, 'note' as kind, $service as service,
    $label as label, $created_by as created_by
