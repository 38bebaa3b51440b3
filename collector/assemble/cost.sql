-- One row a request and what its calls cost by the first price that matches each, null where one of them has no price or
-- no token counts. A call that failed without any cost nothing.
insert into cost
with priced as (
    select
        call.req, call.i,
        call.outcome in ('error', 'rejected') and call.input_tokens is null and call.output_tokens is null as free,
        arg_min(
            -- what counts cached tokens apart from the others has more of them than of all
            (if(coalesce(call.cached_tokens, 0) <= call.input_tokens, call.input_tokens - coalesce(call.cached_tokens, 0), call.input_tokens) * price.input
                + coalesce(call.cached_tokens, 0) * price.cached + call.output_tokens * price.output) / 1e6,
            price.place
        ) as usd
    from call
    left join price on lower(coalesce(call.provider, '')) glob price.provider and lower(call.model) glob price.model
    where call.req is not null
    group by call.req, call.i, free
)
select req, if(count(*) = count(if(free, 0, usd)), sum(if(free, 0, usd)), null)
from priced
group by req
