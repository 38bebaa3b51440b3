-- One row a part, minute and burn rule: how fast its two windows spend the budget, and whether the rule fires. Shares are of
-- the requests that events stand for; how many bad ones it takes is counted in events.
-- A rule is a share of the period's budget spent within the long window: 2 % in 1 h is 14.4 x over 30 days (Google's SRE
-- workbook, chapter 5). Windows end with the minute. A rule that no share of bad events can reach fires at $cap.
-- What pages must also be evidence: what the events seen show is at least $likelier times as likely at the share that they
-- show as at $spent of the budget, the most that a service spends that is well. `odds` is the logarithm of that, events times
-- the Kullback-Leibler divergence of the shares.
grid as (
    select part, time_bucket(interval 1 minute, $from_ts::timestamptz) - interval 3 day + to_minutes(k) as minute
    from (
        select part, unnest(range(4321 + ((
            epoch(time_bucket(interval 1 minute, $to_ts::timestamptz)) - epoch(time_bucket(interval 1 minute, $from_ts::timestamptz))
        ) / 60)::bigint)) as k
        from (select distinct part from minutes) as parts
    ) as numbered
),
summed as (
    select
        grid.part, grid.minute,
        round(sum(coalesce(minutes.weight, 0)) over so_far, 6) as n,  -- so that no events are 0 of them, not 1e-12
        round(sum(coalesce(minutes.bad_weight, 0)) over so_far, 6) as bad,
        (sum(coalesce(minutes.n, 0)) over so_far)::bigint as seen,
        (sum(coalesce(minutes.bad, 0)) over so_far)::bigint as seen_bad,
        coalesce(minutes.bad, 0) > 0 as with_bad
    from grid
    left join minutes on minutes.minute = grid.minute and minutes.part = grid.part
    window so_far as (partition by grid.part order by grid.minute)
),
-- The grid has every minute: so many rows before is so many minutes before. (Seven joins took minutes for a month.)
windows as (
    select
        part, minute,
        n - lag(n, 5, 0) over before as n_5m, bad - lag(bad, 5, 0) over before as bad_5m,
        n - lag(n, 30, 0) over before as n_30m, bad - lag(bad, 30, 0) over before as bad_30m,
        n - lag(n, 60, 0) over before as n_1h, bad - lag(bad, 60, 0) over before as bad_1h,
        seen - lag(seen, 60, 0) over before as seen_1h, seen_bad - lag(seen_bad, 60, 0) over before as seen_bad_1h,
        n - lag(n, 120, 0) over before as n_2h, bad - lag(bad, 120, 0) over before as bad_2h,
        seen - lag(seen, 120, 0) over before as seen_2h, seen_bad - lag(seen_bad, 120, 0) over before as seen_bad_2h,
        n - lag(n, 360, 0) over before as n_6h, bad - lag(bad, 360, 0) over before as bad_6h,
        seen - lag(seen, 360, 0) over before as seen_6h, seen_bad - lag(seen_bad, 360, 0) over before as seen_bad_6h,
        n - lag(n, 1440, 0) over before as n_1d, bad - lag(bad, 1440, 0) over before as bad_1d,
        seen_bad - lag(seen_bad, 1440, 0) over before as seen_bad_1d,
        n - lag(n, 4320, 0) over before as n_3d, bad - lag(bad, 4320, 0) over before as bad_3d,
        seen_bad - lag(seen_bad, 4320, 0) over before as seen_bad_3d,
        seen - coalesce(max(case when with_bad then seen end) over before, 0) as good_since  -- the last minute with a bad one
    from summed
    window before as (partition by part order by minute)
),
ruled as (
    select
        part, minute,
        unnest(['2% in 1h', '5% in 6h', '10% in 1d', '10% in 3d']) as rule,
        unnest(['page', 'page', 'ticket', 'ticket']) as severity,
        unnest([0.02 * $period_s / 3600, 0.05 * $period_s / 21600, 0.10 * $period_s / 86400, 0.10 * $period_s / 259200]) as factor,
        unnest([n_1h, n_6h, n_1d, n_3d]) as n,
        unnest([bad_1h, bad_6h, bad_1d, bad_3d]) as bad,
        unnest([seen_1h, seen_6h, null, null]) as seen,
        unnest([seen_bad_1h, seen_bad_6h, seen_bad_1d, seen_bad_3d]) as seen_bad,
        unnest([n_5m, n_30m, n_2h, n_6h]) as short_n,
        unnest([bad_5m, bad_30m, bad_2h, bad_6h]) as short_bad
    from windows
    where minute >= time_bucket(interval 1 minute, $from_ts::timestamptz)
),
-- Where events are so few that five minutes hold none of them, the last 20 speak: half of them bad is an incident.
-- Asked at the end of each minute: of a minute's own events only its last 20 can be among them.
recent as (
    select part, t, bad, weight
    from (  -- the minute as a column: so DuckDB keeps 20 rows of each instead of sorting all, in two thirds of the time
        select *, row_number() over (partition by part, minute order by t desc) as place
        from (select *, time_bucket(interval 1 minute, t) as minute from events) as timed
    ) as numbered
    where place <= 20
),
last_events as (
    select
        part, t, 20 * sum(if(bad, weight, 0)) over last_20 / sum(weight) over last_20 as bad,
        count(*) over last_20 as n, min(t) over last_20 as since
    from recent
    window last_20 as (partition by part order by t rows 19 preceding)
),
few as (
    -- Where the last 20 came faster the other rules see them, and this one says nothing any more.
    select
        part, time_bucket(interval 1 minute, t) as minute,
        arg_max(case when epoch(t) - epoch(since) >= 300 then bad else 0 end, t) as bad
    from last_events
    where n = 20
    group by all
),
-- No ASOF join: its choice of a loop, from an estimate of one row, took minutes for a month.
latest_few as (
    select
        grid.part, grid.minute,
        last_value(few.bad ignore nulls) over so_far as bad, last_value(few.minute ignore nulls) over so_far as since
    from grid
    left join few on few.part = grid.part and few.minute = grid.minute
    window so_far as (partition by grid.part order by grid.minute)
),
asked as (
    select part, minute, rule, severity, factor, n, bad, seen, seen_bad, short_n, short_bad, null as good_since from ruled
    union all
    select part, minute, 'half of the last 20', 'page', 0.5 / (1 - $target), 20, bad, 20, null, null, null, null
    from latest_few
    where bad is not null and since >= minute - interval 1 day and minute >= time_bucket(interval 1 minute, $from_ts::timestamptz)
    union all
    -- As fast as the slower rule that pages asks for, or half of them. From a day before on: it lasts from one minute to the next.
    select
        part, minute, 'improbable in 2h', 'page', least(0.05 * $period_s / 21600, 0.5 / (1 - $target)), n_2h, bad_2h, seen_2h,
        seen_bad_2h, null, null, good_since
    from windows
    where minute >= time_bucket(interval 1 minute, $from_ts::timestamptz) - interval 1 day
),
weighed as (
    select
        *, case when bad > $spent * (1 - $target) * n then seen * (
            bad / n * ln(greatest(bad / n, 1e-9) / ($spent * (1 - $target)))
            + (1 - bad / n) * ln(greatest(1 - bad / n, 1e-9) / (1 - $spent * (1 - $target)))
        ) else 0 end as odds
    from asked
),
judged as (
    select
        part, minute, rule, severity, factor, n, bad, short_n, short_bad,
        case
            when rule = 'half of the last 20' then bad >= 10 and odds >= ln($likelier)
            when rule <> 'improbable in 2h' then seen_bad >= $least_bad and short_n > 0
                and bad >= least(factor * (1 - $target), $cap) * n and short_bad >= least(factor * (1 - $target), $cap) * short_n
                and (severity = 'ticket' or odds >= ln($likelier))
            when good_since >= $well_again then false
            when seen <= $few and seen_bad >= 2 and odds >= ln($likelier) and bad + 1e-6 >= factor * (1 - $target) * n then true
            -- Else no window short enough to tell that all is well again holds anything: it lasts until two hours hold little.
            when seen > 2 * $few or seen_bad = 0 or odds < ln($unlikely) then false
        end as fires
    from weighed
),
lasting as (
    select part, minute, rule, severity, factor, n, bad, short_n, short_bad, fires as firing from judged where rule <> 'improbable in 2h'
    union all
    select
        part, minute, rule, severity, factor, n, bad, short_n, short_bad,
        coalesce(last_value(fires ignore nulls) over (partition by part order by minute), false)
    from judged
    where rule = 'improbable in 2h'
),
burn as (
    select
        part, minute, rule, severity, factor, round(n)::bigint as n, round(bad)::bigint as bad,
        bad / nullif(n, 0) / (1 - $target) as long_burn,
        short_bad / nullif(short_n, 0) / (1 - $target) as short_burn,
        firing
    from lasting
    where minute >= time_bucket(interval 1 minute, $from_ts::timestamptz)
)
