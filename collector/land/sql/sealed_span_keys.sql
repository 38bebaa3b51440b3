-- One 64-bit key a span of the files that were sealed since $since, which then held spans that had just landed.
select hash(trace_id, span_id) as key
from spans
where started >= (select min(first) from sealed_files where "view" = 'spans' and sealed >= $since)
  and started <= (select max(last) from sealed_files where "view" = 'spans' and sealed >= $since)
