-- The five minutes in which an instant lies: what diagnoses judge at once.
create or replace macro five_minutes(moment) as time_bucket(interval 5 minutes, moment);

-- What each bucket of a histogram grew by since the point before.
create or replace macro counts_since(counts, before) as
    list_transform(list_zip(counts, coalesce(before, counts)), lambda pair: pair[1]::bigint - pair[2]::bigint);

-- One row a point of a counter or a histogram in [from_t, to_t): what was counted since the point before, whatever its temporality.
create or replace macro counted(metric, from_t, to_t) as table
with point as (
    select
        resource_id,
        attrs,
        t,
        case
            when temporality = 'delta' then value
            else greatest(value - coalesce(lag(value) over series, if(started >= from_t::timestamptz, 0, value)), 0)
        end as grown,
        bounds,
        case
            when temporality = 'delta' or row_number() over series = 1 and started >= from_t::timestamptz then counts::bigint[]
            else counts_since(counts, lag(counts) over series)
        end as grown_counts
    from metrics
    where name = metric and t >= from_t::timestamptz - interval 1 minute and t < to_t::timestamptz
    window series as (partition by resource_id, attrs, started order by t)
)
select * from point where t >= from_t::timestamptz;
