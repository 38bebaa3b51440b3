-- One row an alarm of the detector with one window and one look: its baseline keeps what was slow.
with bins as (
    select series, t, tokens, active_stream_s
    from decode_rate
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
)
select series, epoch(t) + 10 as opened_s
from edge
where opens
order by all
