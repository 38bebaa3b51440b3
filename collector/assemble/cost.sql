-- One row a call and what it cost by the first price that matches, null where it has no price or what is priced (tokens, the
-- engine's time, energy) is not known, nothing when it failed without any tokens; then one row a request and what all its calls cost, null where one of them is.
insert into call_cost
with priced as (
    select
        call.req, call.i,
        call.outcome in ('error', 'rejected') and call.input_tokens is null and call.output_tokens is null as free,
        arg_min(
            -- what counts cached tokens apart from the others has more of them than of all
            if(price.input + price.output + price.cached = 0, 0, if(coalesce(call.cached_tokens, 0) <= call.input_tokens, call.input_tokens - coalesce(call.cached_tokens, 0), call.input_tokens) * price.input
                + coalesce(call.cached_tokens, 0) * price.cached + call.output_tokens * price.output) / 1e6
            + if(price.gpu_hour = 0, 0, call.gpu_s * price.gpu_hour / 3600)
            + if(price.kwh = 0, 0, call.energy_j * price.kwh / 3.6e6),
            price.place
        ) as usd
    from call
    left join price on lower(coalesce(call.provider, '')) glob price.provider and lower(call.model) glob price.model
    group by call.req, call.i, free
)
select i, req, if(free, 0, usd)
from priced;

insert into cost
select req, if(count(*) = count(usd), sum(usd), null)
from call_cost
where req is not null
group by req
