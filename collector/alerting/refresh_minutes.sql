-- Forgets what was counted of an objective from a minute on, to be counted anew.
delete from slo_minute
where objective = $objective and minute >= $since::timestamptz
