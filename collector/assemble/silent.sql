-- Ends what runs no more, and gives up what was not heard of for 15 s: its trace is assembled with this request as lost.
delete from live
where (trace_id, span_id) in (
    select (trace_id, span_id)
    from requests
    where outcome <> 'lost' and root_kind = 'slo' and started >= (select min(started) - interval 1 second from live)
);

delete from live
where outcome is null and heard <= $now::timestamptz - interval 15 second and (trace_id, span_id) in (
    select (trace_id, span_id)
    from spans_open
    where started >= (
        select min(started) - interval 1 second from live where outcome is null and heard <= $now::timestamptz - interval 15 second
    )
);

update live
set outcome = 'lost', changed = true
where outcome is null and heard <= $now::timestamptz - interval 15 second;

insert into dirty by name
select
    trace_id, $now::timestamptz as since, $now::timestamptz as last_arrival, true as root_seen,
    min(epoch_ns(started)) as first_ns, max(epoch_ns(started) + (age_s * 1e9)::bigint) as last_ns
from live
where changed
group by trace_id
on conflict do update set root_seen = true,
                          first_ns = least(dirty.first_ns, excluded.first_ns),
                          last_ns = greatest(dirty.last_ns, excluded.last_ns);

update live
set changed = false
where changed;

delete from live
where outcome = 'lost' and heard < $now::timestamptz - interval 1 day
