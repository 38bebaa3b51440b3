-- One row a part and minute with events: how many, how many of them bad, the requests that they stand for, and the variance
-- of these as estimates: a request of weight w was seen with probability 1/w.
select
    part, time_bucket(interval 1 minute, t) as minute,
    count(*) as n, count_if(bad) as bad,
    sum(weight) as weight, coalesce(sum(weight) filter (where bad), 0) as bad_weight,
    sum(weight * (weight - 1)) as spread, coalesce(sum(weight * (weight - 1)) filter (where bad), 0) as bad_spread
from events
group by all
