-- One 64-bit key a span of the files that were sealed in the time $kept before the last body, and hours late: they were of an
-- old hour when they landed, just before. What is sealed in its turn landed more than an hour ago. At most $most.
with late as (
    select min(first) as first, max(last) as last
    from sealed_files
    where "view" = 'spans'
        and sealed >= (select least($now::TIMESTAMPTZ, max(landed)) from bodies) - $kept::INTERVAL
        and sealed > last + interval 3 hour
)
select hash(trace_id, span_id) as key
from spans
where started >= (select first from late) and started <= (select last from late)
limit $most
