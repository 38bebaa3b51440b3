-- One row a span and stage that it has time in: req, i, stage, a (where it begins, null where the span has no stage of its
-- own), ns and critical_ns, last (end of its time on the path).
create or replace temp table part as
select
    req, i, stage,
    min(a) filter (where not critical) as a,
    sum(b - a) filter (where not critical)::bigint as ns,
    coalesce(sum(b - a) filter (where critical), 0)::bigint as critical_ns,
    max(b) filter (where critical) as last
from piece
group by req, i, stage
