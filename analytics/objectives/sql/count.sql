-- Keeps the minutes (or slices) with events of one objective.
insert into slo_minute by name
