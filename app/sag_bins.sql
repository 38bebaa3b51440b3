-- One row a series and 10 s of a Parquet file: bins that come twice are one, an instant without a zone is UTC.
create table bins as
select
    series as series,
    time_bucket(interval 10 second, t::timestamptz) as t,
    sum(tokens::double) as tokens,
    sum(active_stream_s::double) as active_stream_s,
    count(*) - count(*) filter (
        where series is not null and isfinite(t::timestamptz)
            and isfinite(tokens::double) and tokens >= 0
            and isfinite(active_stream_s::double) and active_stream_s >= 0
    ) as wrong
from read_parquet($path)
group by series, time_bucket(interval 10 second, t::timestamptz)
