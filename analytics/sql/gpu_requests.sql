-- One row a model call and GPU that may have served it: what the GPU did meanwhile.
from gpu_requests_between($from_ts::timestamptz, $to_ts::timestamptz)
