-- One row: bytes of the data file that hold nothing and are written to next.
select free_blocks * block_size as free
from pragma_database_size()
