-- Caches of which less than 30 % of the look-ups hit. What a hit saves is told by the spans on which look-ups stand.
create or replace macro found_cache_hit_low(from_t, to_t, least_share := 0.3, fewest := 100) as table
with looked_up as (
    select five_minutes(t) as since, resource_id, attrs->>'$."slo.guard"' as cache, grown, true as hit
    from counted('slo.cache.hits', from_t, to_t)
    union all
    select five_minutes(t), resource_id, attrs->>'$."slo.guard"', grown, false
    from counted('slo.cache.misses', from_t, to_t)
),
shares as (
    select
        since, service, cache,
        coalesce(sum(grown) filter (where hit), 0) as hits, coalesce(sum(grown) filter (where not hit), 0) as misses
    from looked_up
    left join resources using (resource_id)
    where cache is not null
    group by all
    having hits + misses >= fewest and hits < least_share * (hits + misses)
),
timed as (  -- a span that looked up, by whether it hit; none is looked at where no cache hits too rarely
    select
        service, five_minutes(started) as since,
        median(duration_ns / 1e6) filter (where attrs->>'$."slo.cache.hit"' = 'false')
            - median(duration_ns / 1e6) filter (where attrs->>'$."slo.cache.hit"' = 'true') as saved_ms
    from spans
    where started >= from_t::timestamptz and started < to_t::timestamptz and service in (select service from shares)
        and contains(attrs::varchar, '"slo.cache.hit"')
    group by all
)
select
    least(since + interval 5 minutes, to_t::timestamptz) as found_at,
    to_json({'service': service, 'cache': cache}) as scope,
    'ticket' as severity,
    to_json({'hits': hits, 'misses': misses, 'hit_share': hits / (hits + misses), 'saved_ms_a_hit': saved_ms}) as evidence,
    format('raise ttl_s or most_entries of cache {}, or take what varies out of its key', cache)
        || coalesce(format(': a hit saves {:.0f} ms', saved_ms), '') as advice
from shares
left join timed using (service, since);

-- One row a finding of the last hour: a cache of which less than 30 % of the look-ups hit.
create or replace view diag_cache_hit_low as
select
    found_at, -- end of the time in which it held
    scope,    -- what it is about, by name: service, route, instance, ...
    severity, -- page or ticket
    evidence, -- the figures it rests on
    advice    -- the setting or call to change, and what that would save
from found_cache_hit_low(now() - interval 1 hour, now());
