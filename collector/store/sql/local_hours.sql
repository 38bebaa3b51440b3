-- One row an hour of a table here: how many rows.
select epoch_us({time}) // 3600000000 as hour, count(*) as n
from {table}
where {within}
group by hour
