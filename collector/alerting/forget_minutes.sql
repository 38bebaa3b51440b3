-- Forgets what was counted of objectives that are gone.
delete from slo_minute where objective not in (select unnest($names::varchar[]))
