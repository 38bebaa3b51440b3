-- One row a series and bucket of time: decode rate a stream (sum over sum) beside the band in which the sag detector expects it.
with
--: the steps of sag up to state
bin as (
    select *
    from decode_rate
    where t >= $shown_from_ts::timestamptz
        and t < $to_ts::timestamptz
        and active_stream_s > 0
        and ($model::varchar is null or model = $model)
),
bucketed as (  -- a bucket of the detector ends with the bin that fills it
    select
        bin.*,
        min(clean.s) over (partition by bin.series order by bin.t rows between current row and unbounded following) as s
    from bin
    left join clean on clean.series = bin.series and clean.s = epoch(bin.t)
),
judged as (
    select
        bucketed.*,
        state.token_s * exp(-state.slower) as expected_token_s,
        if(expected_token_s is null, null, active_stream_s) as expected_active_s,
        spread,
        time_bucket(to_seconds($bucket_s), t) as bucket
    from bucketed
    left join state using (series, s)
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
        sum(active_stream_s / expected_token_s) / sum(expected_active_s) as expected_rate,
        expected_rate * exp(-3 * avg(spread)) as low_rate,
        expected_rate * exp(3 * avg(spread)) as high_rate
    from judged
    group by bucket, series
),
sagging as (
    select rates.series, rates.t, min(alerts.alert_id) as alert_id, arg_min(alerts.value, alerts.alert_id) as slowdown
    from rates
    join alerts
        on starts_with(alerts.alert_id, 'sag|' || rates.series || '|')
        and alerts.opened < rates.t2
        and (alerts.closed is null or alerts.closed > rates.t)
    where alerts.kind = 'sag'
    group by rates.series, rates.t
)
select
    rates.*,
    coalesce(rate < low_rate, false) as slow,
    sag.alert_id,
    sag.slowdown,
    strftime(rates.t at time zone 'UTC', '%H:%M:%S') as clock,
    $shown_from_ts::timestamptz as window_from,
    $to_ts::timestamptz as window_to
from rates
left join sagging as sag on sag.series = rates.series and sag.t = rates.t
order by rates.series, rates.t;
