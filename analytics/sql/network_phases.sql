-- One row a network phase of a call of one trace, as its client measured it, milliseconds since the call's span began.
with told as (
    select
        span_id,
        name,
        coalesce(server_address, peer) as peer,
        start_ns,
        (attrs->>'$."slo.net.pool_wait"')::double * 1e3 as pool_wait_ms,
        (attrs->>'$."slo.net.dns"')::double * 1e3 as dns_ms,
        (attrs->>'$."slo.net.connect"')::double * 1e3 as connect_ms,
        (attrs->>'$."slo.net.tls"')::double * 1e3 as tls_ms,
        (attrs->>'$."slo.net.send"')::double * 1e3 as send_ms,
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
        unnest([pool_wait_ms, dns_ms, connect_ms, tls_ms, send_ms]) as ms
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
    nullif(concat_ws(
        ', ',
        case when pool_wait_ms >= 0.1 then format('pool wait {:.1f}', pool_wait_ms) end,
        case when dns_ms >= 0.1 then format('dns {:.1f}', dns_ms) end,
        case when connect_ms >= 0.1 then format('connect {:.1f}', connect_ms) end,
        case when tls_ms >= 0.1 then format('tls {:.1f}', tls_ms) end,
        case when send_ms >= 0.1 then format('send {:.1f}', send_ms) end
    ), '') as phases,
    try_cast(attrs->>'$."slo.net.reused"' as boolean) as reused,
    attrs->>'$."slo.net.http_version"' as http_version,
    try_cast(attrs->>'$."slo.net.attempts"' as bigint) as attempts,
    try_cast(attrs->>'$."slo.net.backoff"' as double) * 1e3 as backoff_ms,
    try_cast(attrs->>'$."slo.net.wait_headers"' as double) * 1e3 as wait_headers_ms
from timed
order by lane, place
