-- One row a second with rows, of the oldest hour that is over by $until_us and not sealed yet: t_us, n.
with oldest as (
    select date_trunc('hour', min({time})) as hour
    from {table}
    where {time} < make_timestamptz($until_us) and {eligible}
)
select epoch_us(date_trunc('second', {time})) as t_us, count(*) as n
from {table}, oldest
where {time} >= hour and {time} < hour + interval 1 hour and {eligible}
group by t_us
order by t_us
