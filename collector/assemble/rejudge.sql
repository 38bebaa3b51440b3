-- Has the traces assembled again whose requests did not count so far, since their route had made no calls: one that was
-- shed an hour before or after the route's first calls counts whatever arrived first.
insert into dirty
with route as (
    select service, route, min(started) - interval 1 hour as since, max(started) + interval 1 hour as until
    from request
    where calls > 0 and (service, route) not in (select (service, route) from served)
    group by service, route
)
select spans.trace_id, $now, $now, true, min(spans.start_ns), max(spans.end_ns)
from spans
join route
  on route.service is not distinct from spans.service
 and route.route = coalesce(nullif(spans.request, 'true'), spans.route, spans.name)
 and spans.started between route.since and route.until
where (spans.parent_span_id is null or spans.kind in ('SERVER', 'CONSUMER') or spans.request is not null)
  and spans.started between (select min(since) from route) and (select max(until) from route)
  and (spans.trace_id, spans.span_id) not in (select (trace_id, span_id) from requests)
  and spans.trace_id not in (select trace_id from dirty)
group by spans.trace_id;

insert into served
select distinct service, route from request where calls > 0
except
select service, route from served
