-- Whether any request is over a budget.
select
    exists (from stage where over_ms is not null)
    or exists (from request where total_ms > budget_ms or queue_ms + prefill_ms + decode_ms > budgets['model']) as over
