-- The requests of a tick again, with the budgets that files of objectives give to those that bring none: the request's own word
-- goes before the file's. The word in braces stands for one {{key, value}} a measure: its least limit whose condition holds.
create or replace temp table request as
with told as (
    select
        requests.*,
        map_concat(map_from_entries(list_filter([{entries}], lambda entry: entry.value is not null)), budgets) as all_budgets
    from request as requests
)
select
    * exclude (all_budgets)
    replace (all_budgets as budgets, all_budgets['total'] as budget_ms, all_budgets['ttft'] as ttft_budget_ms)
from told
