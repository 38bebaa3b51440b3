-- One row a column of a table or view that can be asked, with what it means.
select
    table_name,
    column_name,
    data_type,
    comment
from duckdb_columns()
where not internal
    and schema_name = 'main'
order by table_name, column_index
