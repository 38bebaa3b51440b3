-- One row a call and what it cost by the first price that matches, null where it has no price or no token counts, nothing
-- when it failed without any; then one row a request and what all its calls cost, null where one of them is.
insert into call_cost
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
    group by call.req, call.i, free
)
select i, req, if(free, 0, usd)
from priced;

insert into cost
select req, if(count(*) = count(usd), sum(usd), null)
from call_cost
where req is not null
group by req
