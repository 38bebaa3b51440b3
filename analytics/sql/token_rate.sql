-- One row a series and bucket of time: decode rate a stream (sum over sum) beside the rate that load and the trailing baseline lead to expect.
with bins as (
    select
        *,
        epoch(t) as s
    from decode_rate
    where t >= $from_ts::timestamptz - to_seconds($baseline_s + $gap_s)
        and t < $to_ts::timestamptz
        and active_stream_s > 0
),
filled as (  -- counted anew each hour, as the detector does
    select
        *,
        time_bucket(interval 1 hour, t) as hour,
        sum(active_stream_s) over (partition by series, time_bucket(interval 1 hour, t) order by t) as filled_s
    from bins
),
numbered as (  -- a part ends with the bin that fills it
    select
        *,
        floor(round(filled_s - active_stream_s, 6) / $bucket_stream_s) as part
    from filled
),
parts as (
    select
        series,
        hour,
        part,
        max(s) as s,
        sum(active_stream_s) / (10 * count(*)) as load,
        sum(active_stream_s) / sum(tokens) as s_a_token
    from numbered
    group by series, hour, part
    having sum(tokens) > 0
),
fitted as (
    select
        *,
        median(s_a_token) over before as middle,
        avg(s_a_token) over before as mean,
        avg(load) over before as mean_load,
        case when var_pop(load) over before > 1e-9 then regr_slope(s_a_token, load) over before end as slope,
        count(*) over before as n
    from parts
    window before as (
        partition by series
        order by s
        range between $baseline_s::double + $gap_s::double preceding and $gap_s::double preceding
    )
),
expected as (
    select
        series,
        hour,
        part,
        case when n >= $min_buckets
            then greatest(mean + greatest(coalesce(slope, 0), 0) * (load - mean_load), 0.2 * middle)
        end as expected_s_a_token
    from fitted
),
shown as (
    select
        numbered.*,
        active_stream_s / expected_s_a_token as expected_tokens,
        case when expected_s_a_token is not null then active_stream_s end as expected_active_s,
        time_bucket(to_seconds($bucket_s), t) as bucket
    from numbered
    left join expected using (series, hour, part)
    where t >= $from_ts::timestamptz
),
rates as (
    select
        bucket as t,
        bucket + to_seconds($bucket_s) as t2,
        series,
        any_value(model) as model,
        any_value(provider) as provider,
        any_value(instance) as instance,
        any_value(side) as side,
        any_value(unit) as unit,
        sum(tokens) as tokens,
        sum(active_stream_s) as active_stream_s,
        max(streams) as streams,
        sum(tokens) / sum(active_stream_s) as rate,
        sum(expected_tokens) / sum(expected_active_s) as expected_rate
    from shown
    group by bucket, series
),
sagging as (
    select rates.series, rates.t, min(alerts.alert_id) as alert_id
    from rates
    join alerts
        on contains(alerts.alert_id, rates.series)
        and alerts.opened < rates.t2
        and (alerts.closed is null or alerts.closed > rates.t)
    where alerts.kind = 'sag'
    group by rates.series, rates.t
)
select
    rates.*,
    sag.alert_id,
    strftime(rates.t at time zone 'UTC', '%H:%M:%S') as clock,
    $from_ts::timestamptz as window_from,
    $to_ts::timestamptz as window_to
from rates
left join sagging as sag on sag.series = rates.series and sag.t = rates.t
order by rates.series, rates.t;
