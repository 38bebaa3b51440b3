-- One row a network phase of a call of one trace, as its client measured it, milliseconds since the call's span began.
with told as (
    select
        span_id,
        name,
        coalesce(server_address, peer) as peer,
        start_ns,
        attrs
    from spans
    where trace_id = $trace_id::uuid
        and contains(attrs::varchar, '"slo.net.')
),
phase as (
    select
        *,
        unnest(['pool wait', 'dns', 'connect', 'tls', 'send']) as phase,
        unnest([1, 2, 3, 4, 5]) as place,
        unnest([
            attrs->>'$."slo.net.pool_wait"', attrs->>'$."slo.net.dns"', attrs->>'$."slo.net.connect"',
            attrs->>'$."slo.net.tls"', attrs->>'$."slo.net.send"'
        ])::double * 1e3 as ms
    from told
),
timed as (
    select *, sum(ms) over (partition by span_id order by place) as to_ms
    from phase
    where ms is not null
)
select
    dense_rank() over (order by start_ns, span_id) as lane,
    name,
    peer,
    phase,
    place,
    to_ms - ms as from_ms,
    to_ms,
    ms,
    string_agg(phase || ' ' || printf('%.3g', ms), ', ' order by place) filter (where ms >= 0.1) over (partition by span_id) as phases,
    try_cast(attrs->>'$."slo.net.reused"' as boolean) as reused,
    attrs->>'$."slo.net.http_version"' as http_version,
    try_cast(attrs->>'$."slo.net.attempts"' as bigint) as attempts,
    try_cast(attrs->>'$."slo.net.backoff"' as double) * 1e3 as backoff_ms,
    try_cast(attrs->>'$."slo.net.wait_headers"' as double) * 1e3 as wait_headers_ms
from timed
order by lane, place
