-- One row a row of a stretch of time of a table in the store, of one collector: its hash, and whether it may end.
select _hash, if({may_end}, 1, 0) as may_end
from {table}_kept final
where _collector = {collector} and {within}
