-- One row: requests of a step that an objective counts, and those of them that are bad. The words in braces stand for
-- expressions made from the objective, whose conditions were checked when it was read.
select count(*)::bigint as n, count(*) filter (({bad}))::bigint as bad
from requests
where ({where}) and ({counts})
