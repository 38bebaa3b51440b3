-- Peers that a service calls again within the time a connection is kept, mostly over new connections, whose making costs 5 % of p50.
create or replace macro found_no_pooling(from_t, to_t, new_share := 0.5, kept_s := 5, cost_share := 0.05, fewest := 30) as table
with hop as (
    select
        service, coalesce(server_address, peer) as peer, five_minutes(started) as since,
        attrs->>'$."slo.net.reused"' = 'false' as opened,
        (coalesce(try_cast(attrs->>'$."slo.net.dns"' as double), 0)
            + coalesce(try_cast(attrs->>'$."slo.net.connect"' as double), 0)
            + coalesce(try_cast(attrs->>'$."slo.net.tls"' as double), 0)) * 1e3 as setup_ms,
        duration_ns / 1e6 as ms,
        epoch(started) - epoch(lag(started) over (partition by service, coalesce(server_address, peer) order by started)) as gap_s
    from spans
    where started >= from_t::timestamptz and started < to_t::timestamptz
        and role in ('call', 'network') and contains(attrs::varchar, '"slo.net.reused"')
),
pooled as (
    select
        service, peer, since, count(*) as n, avg(opened::int) as opened_share,
        median(setup_ms) filter (where opened) as setup_ms, median(ms) as p50_ms, count(*) filter (where gap_s <= kept_s) as again
    from hop
    group by all
    having count(*) >= fewest
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'peer': peer}) as scope,
    'ticket' as severity,
    to_json({'n': n, 'new_share': opened_share, 'setup_ms': setup_ms, 'p50_ms': p50_ms, 'within_keep_alive': again}) as evidence,
    format(
        'make one client for {} and keep it (httpx.Client, OpenAI(...) outside of the request): {:.0f} ms a call', peer, setup_ms
    ) as advice
from pooled
where opened_share >= new_share and again >= 2 and setup_ms >= cost_share * p50_ms;

-- One row a finding of the last hour: a peer that is called over new connections.
create or replace view diag_no_pooling as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_no_pooling(now() - interval 1 hour, now());
