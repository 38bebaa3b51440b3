-- Forgets how budgets stood.
delete from slo_status
