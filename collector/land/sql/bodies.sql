-- One row a body that lands.
insert into bodies by name
select digest, $now::TIMESTAMPTZ as landed, spans
from batch_bodies
