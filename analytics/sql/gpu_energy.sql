-- One row a model call on a GPU with an energy counter, and one a GPU for what went to none.
from gpu_energy_between($from_ts::timestamptz, $to_ts::timestamptz)
