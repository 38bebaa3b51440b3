-- The first row groups that hold a row of what is forgotten, as ranges of row ids: at most 4, 0.5 M rows.
create or replace temp table touched as
with groups as (
    select row_group_id, sum("count") as n
    from pragma_storage_info('{table}')
    where column_id = 0 and segment_type <> 'VALIDITY'
    group by row_group_id
),
ranges as (
    select (sum(n) over (order by row_group_id) - n)::BIGINT as first_row,
           sum(n) over (order by row_group_id)::BIGINT as end_row
    from groups
)
select distinct ranges.first_row, ranges.end_row
from ranges
join (select rowid as row_id from {table} where {condition}) matched
  on matched.row_id >= ranges.first_row and matched.row_id < ranges.end_row
order by ranges.first_row
limit 4
