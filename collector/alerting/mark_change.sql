-- Keeps a mark of a change that was seen, unless the same is there already.
insert into marks by name
select
    $mark_id as mark_id, $t::timestamptz as t, $kind as kind, $service as service, $label as label,
    $old_value as old_value, $new_value as new_value
where not exists (
    from marks
    where kind = $kind and service is not distinct from $service and label = $label
        and marks.t >= $t::timestamptz - interval 1 hour and marks.t <= $t::timestamptz + interval 1 hour
)
