-- One row: the times of the oldest and the newest row of {file}.
select epoch_us(min({time})) as first_us, epoch_us(max({time})) as last_us
from read_parquet({file})
