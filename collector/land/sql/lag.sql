-- How old what was sent was when it landed, by sender; what a wrong clock says is taken for at most a day ahead, a week behind.
merge into ingest_health
using (
    select date_trunc('minute', $now::TIMESTAMPTZ) as minute,
           service,
           $signal as signal,
           'accepted' as reason,
           0::BIGINT as n,
           sum(lag_s) as lag_sum_s,
           max(lag_s) as lag_max_s
    from (
        select service, least(greatest(epoch($now::TIMESTAMPTZ) - t_ns / 1e9, -86400), 604800) as lag_s
        from batch_timed
        where t_ns > 0
    )
    group by service
) batch
on ingest_health.minute = batch.minute
   and ingest_health.service is not distinct from batch.service
   and ingest_health.signal = batch.signal
   and ingest_health.reason = batch.reason
when matched then update set
    lag_sum_s = coalesce(ingest_health.lag_sum_s, 0) + batch.lag_sum_s,
    lag_max_s = greatest(coalesce(ingest_health.lag_max_s, batch.lag_max_s), batch.lag_max_s)
when not matched then insert by name
