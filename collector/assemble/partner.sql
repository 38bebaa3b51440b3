-- One row a trace that shares an answer with a ripe one, so that both are assembled: spans of one call carry one response
-- id even where the trace context was lost between them.
insert into ripe
with wanted as (
    select response_id, start_ns, end_ns from member where response_id is not null and role in ('call', 'engine')
),
found as (
    select calls.trace_id
    from calls
    join wanted
      on wanted.response_id = calls.response_id
     and calls.started <= make_timestamptz(wanted.end_ns // 1000)
     and calls.started + to_microseconds((calls.total_ms * 1000)::bigint) >= make_timestamptz(wanted.start_ns // 1000)
    where calls.started >= $now - interval 10 minute
    union
    select abroad.trace_id
    from abroad
    join wanted on wanted.response_id = abroad.response_id
)
select distinct trace_id from found where trace_id not in (select trace_id from ripe)
