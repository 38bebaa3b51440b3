-- One row an alarm: a series whose tokens came slower than its load and its recent past explain, from opened to closed.
with bins as (
    select
        series, t, tokens, active_stream_s,
        time_bucket(interval 1 hour, t) as hour
    from decode_rate
    where t >= $from_ts::timestamptz and t < $to_ts::timestamptz and active_stream_s > 0
        and hash(series) % $parts::ubigint = $part::ubigint
),
filled as (  -- counted anew each hour, so that the buckets do not depend on where the data begins
    select *, sum(active_stream_s) over (partition by series, hour order by t) as filled_s
    from bins
),
bucket as materialized (  -- equal information: a bucket ends with the bin that fills it
    select
        series,
        epoch(max(t)) as s,
        sum(active_stream_s) / (10 * count(*)) as streams,
        sum(active_stream_s) / sum(tokens) as token_s,
        ln(sum(active_stream_s) / sum(tokens)) as pace
    from (
        select *, floor(round(filled_s - active_stream_s, 6) / $bucket_stream_s) as number
        from filled
    )
    group by series, hour, number
    having sum(tokens) > 0 and round(max(filled_s), 6) >= (number + 1) * $bucket_stream_s
),
-- First look, at everything: what was slow is kept out of what the second look expects. pace = level + slope x streams
-- by least squares over the trailing baseline, the last gap_s left out.
first_past as (
    select
        *,
        count(*) over past as n,
        sum(pace) over past as y,
        sum(streams) over past as x,
        sum(streams * streams) over past as xx,
        sum(streams * pace) over past as xy,
        sum(pace * pace) over past as yy
    from bucket
    window past as (
        partition by series order by s range between $baseline_s + $gap_s preceding and $gap_s preceding
    )
),
first_fit as (
    select
        *,
        case when xx - x * x / n > 1e-6 * n then greatest((xy - x * y / n) / (xx - x * x / n), 0) else 0 end as slope
    from first_past
    where n >= $min_buckets
),
first_residual as (
    select
        series, s,
        pace - (y / n + slope * (streams - x / n)) as slower,
        greatest(sqrt(greatest(yy - y * y / n - slope * (xy - x * y / n), 0) / n), 0.03) as spread
    from first_fit
),
first_mean as (
    select
        *,
        avg(least(slower, 0.6)) over lately as mean,
        count(*) over lately as k
    from first_residual
    window lately as (partition by series order by s range between $window_s preceding and current row)
),
suspect as (
    select
        series, s, slower,
        last_value(
            case
                when k >= 3 and mean - 2 * spread / sqrt(k) >= 1.33 * $threshold then true
                when mean < 0.8 * $threshold then false
            end ignore nulls
        ) over (partition by series order by s) as flagged
    from first_mean
),
clean as materialized (
    select
        bucket.series, bucket.s, streams, token_s, pace,
        pace - greatest(coalesce(slower, 0) - 0.6, 0) as held,  -- one stuck request must not move the fit
        case when not coalesce(bool_or(flagged) over (
            -- A look back from gap_s later: what is judged by then may keep a bucket out, nothing that comes after.
            partition by bucket.series order by bucket.s range between current row and $gap_s - 10 following
        ), false) then 1 end as kept
    from bucket
    left join suspect using (series, s)
),
past as (
    select
        *,
        count(kept) over past as n,
        sum(held * kept) over past as y,
        sum(streams * kept) over past as x,
        sum(streams * streams * kept) over past as xx,
        sum(streams * held * kept) over past as xy,
        min(streams * kept) over past as fewest,
        max(streams * kept) over past as most
    from clean
    window past as (
        partition by series order by s range between $baseline_s + $gap_s preceding and $gap_s preceding
    )
),
fit as (
    select
        *,
        case when xx - x * x / n > 1e-6 * n then greatest((xy - x * y / n) / (xx - x * x / n), 0) else 0 end as slope
    from past
    where n >= $min_buckets
),
residual as (  -- in e-folds; more streams than ever seen may cost as much as if the engine gave no token more than before
    select
        series, s, streams, token_s, kept, n,
        pace - (y / n + slope * (greatest(least(streams, most), fewest) - x / n)) - greatest(ln(streams / most), 0) as slower
    from fit
),
spread as (
    select
        *,
        -- Until the residuals are enough to tell, a tenth.
        greatest(1.4826 * coalesce(median(abs(slower) * kept) over past, 0.0675), 0.03) as spread
    from residual
    window past as (
        partition by series order by s range between $baseline_s + $gap_s preceding and $gap_s preceding
    )
),
mean as (
    select
        *,
        avg(slower) over lately as slower_lately,
        avg(greatest(least(slower, 1), -1)) over lately as mean_lately,
        avg(greatest(least(slower, 1), -1)) over just_now as mean_now,
        avg((slower > $threshold / 2)::int) over lately as share_lately,
        avg((slower > $threshold / 2)::int) over just_now as share_now,
        avg(slower) over (partition by series order by s rows between 3 preceding and current row) as slower_now,
        count(*) over lately as k_lately,
        count(*) over just_now as k_now
    from spread
    window
        lately as (partition by series order by s range between $window_s preceding and current row),
        just_now as (partition by series order by s range between 0.4 * $window_s preceding and current row)
),
bound as (  -- lower confidence bounds: the fewer the buckets, which one odd request may fill, the more sure they must be
    select
        *,
        case when k_lately >= 2 and share_lately >= 0.6
            then mean_lately - (2.5 + 10 / k_lately ** 2) * spread * sqrt(1 / k_lately + 1 / n) end as lcb_lately,
        case when k_now >= 4 and share_now >= 0.6
            then mean_now - 5 * spread * sqrt(1 / k_now + 1 / n) end as lcb_now
    from mean
),
state as (  -- opened by a bound, so that it is sure; kept open by the estimate, so that it does not flap
    select
        *,
        greatest(lcb_lately, lcb_now) as lcb,
        coalesce(last_value(
            case
                when greatest(lcb_lately, lcb_now) >= $threshold and mean_now >= $threshold / 2 then true
                when mean_now < $threshold / 2 then false
            end ignore nulls
        ) over (partition by series order by s), false) as is_open
    from bound
),
edge as (
    select *, is_open and not lag(is_open, 1, false) over (partition by series order by s) as opens
    from state
),
spell as (
    select *, count(*) filter (where opens) over (partition by series order by s) as spell
    from edge
),
alarm as (
    select
        series, spell,
        min(s) filter (where is_open) as s,
        min(s) filter (where not is_open) as closed_s,
        max(lcb) filter (where is_open) as lcb,
        max(slower_lately) filter (where is_open) as slower,
        arg_min(greatest(slower_lately, slower_now), s) filter (where is_open) as slower_at_first,
        count(*) filter (where is_open) as n,
        avg(token_s) filter (where is_open) as token_s,
        avg(streams) filter (where is_open) as streams,
        case when var_pop(streams) filter (where is_open) > 1e-9
            then regr_slope(token_s, streams) filter (where is_open) end as b_now
    from spell
    where spell > 0
    group by series, spell
),
before as (  -- time per token = a + b x streams, before the alarm
    select
        alarm.series, alarm.spell,
        case when var_pop(clean.streams) > 1e-9 then greatest(regr_slope(clean.token_s, clean.streams), 0) else 0 end as b,
        avg(clean.token_s) as mean_s,
        avg(clean.streams) as mean_streams
    from alarm
    join clean
        on clean.series = alarm.series
        and clean.s between alarm.s - $baseline_s - $gap_s and alarm.s - $gap_s
        and clean.kept = 1
    group by alarm.series, alarm.spell
),
rise as (  -- what of the added time per token each part explains
    select
        alarm.*,
        mean_streams,
        mean_s - b * mean_streams as a,
        case when streams <= 1.05 then token_s - a - b * streams else token_s - a - b_now * streams end as by_engine_s,
        case when streams <= 1.05 then 0 else (b_now - b) * streams end as by_contention_s
    from alarm
    join before using (series, spell)
)
select
    series,
    make_timestamptz(((s + 10) * 1e6)::bigint) as opened,
    make_timestamptz(((closed_s + 10) * 1e6)::bigint) as closed,
    case when lcb >= ln(1.5) then 'page' else 'ticket' end as severity,
    lcb,
    case
        when streams > 1.05 and (n < 5 or b_now is null) then 'unknown'  -- five points for two parameters at least
        when by_engine_s > 2 * greatest(by_contention_s, 0) then 'engine'
        when by_contention_s > 2 * greatest(by_engine_s, 0)
            then case when streams >= 1.5 * mean_streams then 'load' else 'contention' end
        else 'unknown'
    end as cause,
    exp(slower) as slowdown,
    exp(slower_at_first) as first_slowdown
from rise
order by series, opened
