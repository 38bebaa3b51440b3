-- Tenants with more than half of the tokens of a server while another's p95 of its queue is over 100 ms and twice that of the hour
-- before. Tenants of different servers do not wait for each other.
create or replace macro found_noisy_tenant(from_t, to_t, token_share := 0.5, queue_factor := 2, least_ms := 100, fewest := 20) as table
with call as (
    select
        five_minutes(calls.started) as since, coalesce(calls.server_address, calls.provider) as server, calls.model, requests.tenant,
        calls.queue_ms, coalesce(calls.input_tokens, 0) + coalesce(calls.output_tokens, 0) as tokens
    from calls
    join requests using (trace_id, request_id)
    where calls.started >= from_t::timestamptz - interval 1 hour and calls.started < to_t::timestamptz
        and requests.started >= from_t::timestamptz - interval 2 hours
        and not requests.synthetic and requests.tenant is not null
),
loaded as (
    select
        since, server, model, tenant, count(*) as n,
        sum(tokens) / nullif(sum(sum(tokens)) over (partition by since, server, model), 0) as share,
        quantile_cont(queue_ms, 0.95) as queue_p95_ms
    from call
    group by since, server, model, tenant
),
noisy as (
    from loaded
    where since >= five_minutes(from_t::timestamptz) and share > token_share
),
harmed as (
    select
        noisy.since, noisy.server, noisy.model, noisy.tenant, noisy.share, loaded.tenant as other, loaded.n, loaded.queue_p95_ms,
        quantile_cont(call.queue_ms, 0.95) as usual_p95_ms
    from noisy
    join loaded
        on loaded.since = noisy.since and loaded.server is not distinct from noisy.server
        and loaded.model is not distinct from noisy.model and loaded.tenant <> noisy.tenant and loaded.n >= fewest
    join call
        on call.tenant = loaded.tenant and call.server is not distinct from noisy.server and call.model is not distinct from noisy.model
        and call.since < noisy.since and call.since >= noisy.since - interval 1 hour
    where loaded.queue_p95_ms >= least_ms
    group by all
    having count(*) >= fewest and loaded.queue_p95_ms >= queue_factor * quantile_cont(call.queue_ms, 0.95)
),
judged as (
    select
        since, server, model, tenant, any_value(share) as share, max(queue_p95_ms - usual_p95_ms) as saved_ms,
        list(
            to_json({'tenant': other, 'n': n, 'queue_p95_ms': queue_p95_ms, 'usual_p95_ms': usual_p95_ms}) order by other
        ) as others
    from harmed
    group by all
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'tenant': tenant, 'server': server, 'model': model}) as scope,
    'page' as severity,
    to_json({'token_share': share, 'harmed': json_listed(others), 'saved_ms': saved_ms}) as evidence,
    format(
        'give tenant {} a quota (AdaptiveLimit or BoundedQueue of its own): others would wait up to {:.0f} ms less', tenant, saved_ms
    ) as advice
from judged;

-- One row a finding of the last hour: a tenant that takes more than half of the tokens while others queue.
create or replace view diag_noisy_tenant as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_noisy_tenant(now() - interval 1 hour, now());
