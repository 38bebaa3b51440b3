-- Adds counts to the minute's.
merge into ingest_health
using (select date_trunc('minute', $now::TIMESTAMPTZ) as minute, * from batch_health) batch
on ingest_health.minute = batch.minute
   and ingest_health.service is not distinct from batch.service
   and ingest_health.signal = batch.signal
   and ingest_health.reason = batch.reason
when matched then update set n = ingest_health.n + batch.n
when not matched then insert by name
