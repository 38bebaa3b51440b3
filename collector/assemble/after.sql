-- Which of the last steps have anything to do, by name: requests over a budget, and routes whose first calls these are.
select
    exists (from stage where over_ms is not null)
    or exists (from request where total_ms > budget_ms or queue_ms + prefill_ms + decode_ms > budgets['model']) as over,
    exists (from request where calls > 0 and (service, route) not in (select (service, route) from served)) as rejudge
