-- One row a silence that holds now.
select silence_id, labels, until
from silences
where created <= $now::timestamptz and until > $now::timestamptz
