-- Bodies are known for a day.
delete from bodies
where landed < $now::TIMESTAMPTZ - interval 1 day
