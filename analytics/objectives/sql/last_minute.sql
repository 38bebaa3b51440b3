-- One row: the last minute in which an objective counted an event, null without any.
select max(minute) as minute from slo_minute where objective = $objective
