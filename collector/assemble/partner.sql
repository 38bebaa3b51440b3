-- One row a trace that shares an answer with a ripe one, so that both are assembled: spans of one call carry one response
-- id even where the trace context was lost between them.
insert into ripe
with wanted as (
    select response_id, start_ns, end_ns from member where response_id is not null and role in ('call', 'engine')
),
found as (
    select
        calls.trace_id,
        epoch_ns(calls.started) as first_ns,
        epoch_ns(calls.started + to_microseconds((calls.total_ms * 1000)::bigint)) as last_ns,
        3600000000000 as margin_ns
    from calls
    join wanted
      on wanted.response_id = calls.response_id
     and calls.started <= make_timestamptz(wanted.end_ns // 1000)
     and calls.started + to_microseconds((calls.total_ms * 1000)::bigint) >= make_timestamptz(wanted.start_ns // 1000)
    where calls.started >= $now - interval 10 minute
    union all
    select abroad.trace_id, wanted.start_ns, wanted.end_ns, 3600000000000
    from abroad
    join wanted on wanted.response_id = abroad.response_id
)
select
    found.trace_id,
    min(coalesce(trace_state.first_ns, found.first_ns)), max(coalesce(trace_state.last_ns, found.last_ns)),
    min(if(trace_state.trace_id is null, found.margin_ns, 0))
from found
left join trace_state on trace_state.trace_id = found.trace_id
where found.trace_id not in (select trace_id from ripe)
group by found.trace_id
