-- Deletes what is older than $until_us, but no more at once than $minutes of it, so that landing never waits for long.
delete from {table}
where {time} < make_timestamptz($until_us) and {time} < (select min({time}) from {table}) + to_minutes($minutes)
