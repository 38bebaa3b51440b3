-- Adds bins of 10 s to those that are there; `streams` is the largest seen.
merge into decode_rate
using (select make_timestamptz(t_s * 1_000_000) as t, * exclude (t_s) from batch_decode_rate) bin
on decode_rate.t = bin.t and decode_rate.series = bin.series
when matched then update set tokens = decode_rate.tokens + bin.tokens,
                             active_stream_s = decode_rate.active_stream_s + bin.active_stream_s,
                             streams = greatest(decode_rate.streams, bin.streams)
when not matched then insert by name
