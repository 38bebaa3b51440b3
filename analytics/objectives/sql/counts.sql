-- One row a part and minute (or slice) with events.
select $objective as objective, part, minute, n, bad, weight, bad_weight, spread, bad_spread from minutes
