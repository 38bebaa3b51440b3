-- One row a model call that was inside an engine at one moment of a stretch of time: its sample with the longest queue.
with moment as (
    select t, running, waiting, kv_used, step_ms
    from engine
    where instance = $instance
        and t >= $from_ts::timestamptz
        and t < $to_ts::timestamptz
        and up
    order by waiting desc nulls last, running desc nulls last, t
    limit 1
),
part as (  -- no call is in an engine for longer than an hour
    select stage_spans.*
    from stage_spans, moment
    where stage in ('queue', 'prefill', 'decode')
        and started > moment.t - interval 1 hour
        and started <= moment.t
        and started + to_microseconds((duration_ms * 1000)::bigint) > moment.t
)
select
    part.request_id,
    part.stage as phase,
    (epoch_us(moment.t) - epoch_us(part.started)) // 1000 as since_ms,
    part.duration_ms,
    calls.model,
    requests.tenant,
    requests.route,
    calls.input_tokens,
    calls.output_tokens,
    calls.cached_tokens,
    requests.total_ms,
    calls.started,
    moment.t as moment,
    moment.running,
    moment.waiting,
    moment.step_ms
from part
join calls
    on calls.trace_id = part.trace_id
    and calls.span_id = part.span_id
    and calls.server_address = $instance
    and calls.started > part.started - interval 1 hour
left join requests
    on requests.trace_id = part.trace_id
    and requests.request_id = part.request_id
    and requests.started > part.started - interval 1 day
cross join moment
order by list_position(['queue', 'prefill', 'decode'], phase), since_ms desc, part.request_id
