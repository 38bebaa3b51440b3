-- One row a part, minute and burn rule.
select * from burn order by part, minute, rule
