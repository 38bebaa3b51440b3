-- Between which microseconds rows of the ripe traces start, those of an earlier assembly included.
select
    coalesce(least((select min(s) from node), (select min(greatest(first_ns, 0)) from ripe)) // 1000, 0) as first_us,
    coalesce(greatest((select max(e) from node), (select max(least(last_ns, 4000000000000000000)) from ripe)) // 1000 + 1, 0) as last_us
