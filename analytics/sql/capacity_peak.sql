-- One row a region and hour of the day in UTC, and one for all hours (null): calls a second in the busiest minute of a hundred.
with call as (
    select coalesce(region, '') as region, time_bucket(interval 1 minute, started) as minute
    from calls
    where started >= $from_ts::timestamptz
        and started < $to_ts::timestamptz
        and ($instance is null or server_address = $instance)
        and trace_id not in (
            select trace_id
            from requests
            where synthetic and started >= $from_ts::timestamptz - interval 1 hour and started < $to_ts::timestamptz
        )
),
extent as (
    select region, min(minute) as first, max(minute) as last
    from call
    group by all
),
numbered as (
    select region, first, unnest(range((epoch(last) - epoch(first))::bigint // 60 + 1)) as number
    from extent
),
minutes as (  -- the quiet ones too
    select region, first + to_minutes(number) as minute
    from numbered
),
counted as (
    select minutes.region, minutes.minute, count(call.minute) as n
    from minutes
    left join call using (region, minute)
    group by all
),
hourly as (
    select *, extract(hour from minute at time zone 'UTC') as hour
    from counted
)
select
    region,
    hour,
    sum(n)::bigint as n,
    count(*) as minutes,
    avg(n) / 60 as mean_s,
    quantile_cont(n, 0.99) / 60 as peak_s
from hourly
group by grouping sets ((region), (region, hour))
order by region, hour nulls first
