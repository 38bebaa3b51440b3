-- Takes back an alert that ended before anybody was to be told.
delete from alerts
where alert_id = $alert_id
