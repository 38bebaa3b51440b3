-- One row an alarm: a series whose tokens came slower than its load and its recent past explain, from opened to closed.
with bins as (
    select series, t, tokens, active_stream_s
    from decode_rate
    where t >= $from_ts and t < $to_ts
),
filled as (  -- counted anew each hour, so that the buckets do not depend on where the data begins
    select
        *,
        sum(active_stream_s) over (
            partition by series, time_bucket(interval 1 hour, t) order by t
        ) as filled_s
    from bins
    where active_stream_s > 0
),
bucket as (  -- equal information: a bucket ends with the bin that fills it
    select
        series, max(t) as t, sum(tokens) as tokens, sum(active_stream_s) as active_s,
        sum(active_stream_s) / (10 * count(*)) as streams
    from (
        select *, floor(round(filled_s - active_stream_s, 6) / $bucket_stream_s) as number
        from filled
    )
    group by series, time_bucket(interval 1 hour, t), number
    having sum(tokens) > 0 and round(max(filled_s), 6) >= (number + 1) * $bucket_stream_s
),
pace as (
    select series, t, streams, tokens, active_s / tokens as token_s
    from bucket
),
base as (  -- time per token = a + b x streams, fitted over the trailing baseline, the last gap_s left out
    select
        *,
        median(token_s) over past as usual_s,
        case when var_pop(streams) over past > 1e-9 then greatest(regr_slope(token_s, streams) over past, 0) else 0 end as b,
        avg(token_s) over past as mean_s,
        avg(streams) over past as mean_streams,
        1.4826 * mad(ln(token_s)) over past as token_spread,
        count(*) over past as n
    from pace
    window past as (
        partition by series order by t
        range between to_seconds($baseline_s + $gap_s) preceding and to_seconds($gap_s) preceding
    )
),
residual as (
    select
        *,
        mean_s - b * mean_streams as a,
        ln(token_s / greatest(mean_s + b * (streams - mean_streams), 0.2 * usual_s)) as r
    from base
    where n >= $min_buckets
),
calibrated as (
    select
        * exclude (token_spread),
        median(r) over past as r_usual,
        -- Of the residuals; until there are enough of them, also of the times per token themselves.
        greatest(
            1.4826 * median(abs(r)) over past,
            case when count(*) over past < $min_buckets then token_spread end,
            0.03
        ) as spread
    from residual
    window past as (
        partition by series order by t
        range between to_seconds($baseline_s + $gap_s) preceding and to_seconds($gap_s) preceding
    )
),
judged as (  -- in e-folds: how much slower, and its lower confidence bound
    select
        *,
        avg(r - coalesce(r_usual, 0)) over lately as slower,
        median(r - coalesce(r_usual, 0)) over lately as typically_slower,
        avg(r - coalesce(r_usual, 0)) over lately - 2 * spread / sqrt(count(*) over lately) as lcb
    from calibrated
    window lately as (partition by series order by t range between to_seconds($window_s) preceding and current row)
),
state as (  -- opened by the lower bound, so that it is sure; kept open by the estimate, so that it does not flap
    select
        *,
        last_value(
            case
                when lcb >= $threshold and typically_slower >= $threshold / 2 then true
                when slower < $threshold then false
            end ignore nulls
        ) over (partition by series order by t) as is_open
    from judged
),
edge as (
    select *, coalesce(is_open, false) and not coalesce(lag(is_open) over (partition by series order by t), false) as opens
    from state
),
spell as (
    select *, count(*) filter (where opens) over (partition by series order by t) as spell
    from edge
),
first_point as (
    select series, spell, a, b from spell where opens
),
alarm as (
    select
        spell.series, spell.spell,
        min(t) filter (where is_open) + interval 10 second as opened,
        min(t) filter (where not is_open) + interval 10 second as closed,
        max(lcb) filter (where is_open) as lcb,
        max(slower) filter (where is_open) as slower,
        count(*) filter (where is_open) as n,
        avg(token_s) filter (where is_open) as token_s,
        avg(spell.streams) filter (where is_open) as streams,
        case when var_pop(spell.streams) filter (where is_open) > 1e-9
            then regr_slope(token_s, spell.streams) filter (where is_open) end as b_now,
        any_value(first_point.a) as a,
        any_value(first_point.b) as b
    from spell
    join first_point using (series, spell)
    group by spell.series, spell.spell
),
rise as (  -- what of the added time per token each part explains
    select
        *,
        case when streams <= 1.05 then token_s - a - b * streams else token_s - a - b_now * streams end as by_engine_s,
        case when streams <= 1.05 then 0 else (b_now - b) * streams end as by_contention_s
    from alarm
)
select
    series, opened, closed,
    case when lcb >= ln(1.5) then 'page' else 'ticket' end as severity,
    lcb,
    case
        when streams > 1.05 and (n < 5 or b_now is null) then 'unknown'  -- five points for two parameters at least
        when by_engine_s > 2 * greatest(by_contention_s, 0) then 'engine'
        when by_contention_s > 2 * greatest(by_engine_s, 0) then 'contention'
        else 'unknown'
    end as cause,
    exp(slower) as slowdown
from rise
order by series, opened
