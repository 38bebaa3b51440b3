-- No row: fails where a condition of an objective, in braces, cannot be judged.
select ({where}) as holds from requests limit 0
