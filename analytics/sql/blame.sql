-- One row a suspect: how much more of a request's time a service or operation takes now than in the baseline, and why it is suspected.
with near as (  -- a trace lasts an hour at most
    select
        trace_id, span_id, parent_span_id, kind, started, start_ns, end_ns, name, stage, status,
        coalesce(service, 'unknown') as service
    from spans
    where (started >= $from_ts::timestamptz - interval 1 hour and started < $to_ts::timestamptz + interval 1 hour)
        or (started >= $baseline_from_ts::timestamptz - interval 1 hour
            and started < $baseline_to_ts::timestamptz + interval 1 hour)
),
request as materialized (
    select
        trace_id,
        (max(end_ns) - min(start_ns)) / 1e6 as total_ms,
        min(started) >= $from_ts::timestamptz and min(started) < $to_ts::timestamptz as now
    from near
    group by trace_id
    having now or (min(started) >= $baseline_from_ts::timestamptz and min(started) < $baseline_to_ts::timestamptz)
),
span as materialized (
    select near.*, request.now
    from near
    join request using (trace_id)
),
counted as (
    select
        count(*) filter (where now) as requests,
        count(*) filter (where not now) as baseline_requests,
        coalesce(median(total_ms) filter (where not now), median(total_ms)) as request_ms
    from request
),
child as (  -- clipped to its parent
    select
        parent.trace_id, parent.span_id,
        child.span_id as child_id,
        child.service, child.name, child.stage,
        child.service <> parent.service as elsewhere,
        child.status = 'ERROR' as failed,
        greatest(child.start_ns, parent.start_ns) as start_ns,
        least(child.end_ns, parent.end_ns) as end_ns
    from span as child
    join span as parent
        on child.trace_id = parent.trace_id and child.parent_span_id = parent.span_id
),
covered as (  -- what each child adds to the union of its elder siblings
    select
        *,
        greatest(end_ns - greatest(start_ns, coalesce(max(end_ns) over elder, start_ns)), 0) as added_ns
    from child
    window elder as (
        partition by trace_id, span_id order by start_ns, end_ns rows between unbounded preceding and 1 preceding
    )
),
outlasted as (  -- from here on a sibling runs that ends later: what is done beside it delays nobody
    select
        trace_id,
        child_id as span_id,
        min(start_ns) over (
            partition by trace_id, span_id order by end_ns desc range between unbounded preceding and 1 preceding
        ) as from_ns
    from child
),
below as (
    select
        trace_id, span_id,
        sum(added_ns) as covered_ns,
        bool_or(failed) as failed,
        bool_and(elsewhere) and min(service) = max(service) as called,
        min(service) as callee,
        arg_min(name, start_ns) as callee_operation,
        nullif(arg_min(coalesce(stage, ''), start_ns), '') as callee_stage
    from covered
    group by trace_id, span_id
),
timed as (  -- exclusive time, and whether an error began here
    select
        span.now, span.service, span.name, span.stage,
        -- A call: said to be one, or within its service and all that lies below runs elsewhere.
        below.called and (span.kind in ('CLIENT', 'PRODUCER') or parent.service = span.service) as calls,
        below.callee, below.callee_operation, below.callee_stage,
        case
            when below.covered_ns is not null then span.end_ns - span.start_ns - below.covered_ns
            else greatest(least(span.end_ns, coalesce(outlasted.from_ns, span.end_ns)) - span.start_ns, 0)
        end / 1e6 as own_ms,
        (span.status = 'ERROR' and not coalesce(below.failed, false))::int as began_error
    from span
    left join below using (trace_id, span_id)
    left join outlasted using (trace_id, span_id)
    left join span as parent on parent.trace_id = span.trace_id and parent.span_id = span.parent_span_id
),
operation as (  -- callee is null for work, and names whom a call waits for
    select
        service, name as operation,
        case when calls then callee end as callee,
        case when calls then callee_operation end as callee_operation,
        any_value(stage) as stage,
        any_value(case when calls then callee_stage end) as callee_stage,
        count(*) filter (where now) as n,
        count(*) filter (where not now) as baseline_n,
        coalesce(median(own_ms) filter (where now), 0) as p50_ms,
        coalesce(median(own_ms) filter (where not now), 0) as baseline_p50_ms,
        coalesce(quantile_cont(own_ms, 0.9) filter (where now), 0) as p90_ms,
        coalesce(quantile_cont(own_ms, 0.9) filter (where not now), 0) as baseline_p90_ms,
        coalesce(sum(began_error) filter (where now), 0) as errors,
        coalesce(sum(began_error) filter (where not now), 0) as baseline_errors
    from timed
    group by service, name, case when calls then callee end, case when calls then callee_operation end
),
edge as (  -- how much longer a call waits, by caller and callee
    select
        service, callee,
        sum(n * (p50_ms - baseline_p50_ms)) / sum(n) as p50_ms,
        sum(n * (p90_ms - baseline_p90_ms)) / sum(n) as p90_ms
    from operation
    where callee is not null and n > 0 and baseline_n > 0
    group by service, callee
),
common as (  -- who waits longer for everybody is slow itself
    select
        service as caller,
        greatest(case when count(*) > 2 then median(p50_ms) else min(p50_ms) end, 0) as all_p50_ms,
        greatest(case when count(*) > 2 then median(p90_ms) else min(p90_ms) end, 0) as all_p90_ms
    from edge
    group by service
    having count(*) > 1
),
change as (
    select
        operation.*,
        p50_ms - baseline_p50_ms as grown_ms,
        p90_ms - baseline_p90_ms as p90_grown_ms,
        least(coalesce(all_p50_ms, 0), greatest(p50_ms - baseline_p50_ms, 0)) as common_ms,
        least(coalesce(all_p90_ms, 0), greatest(p90_ms - baseline_p90_ms, 0)) as p90_common_ms,
        n / requests as calls,
        coalesce(errors / requests - baseline_errors / nullif(baseline_requests, 0), errors / requests) as errors_more
    from operation
    left join common on operation.service = common.caller and operation.callee is not null
    cross join counted
    where requests > 0
),
part as (  -- a call's wait: what is common to all calls is the caller's, the rest the callee's, and half of it the caller's too
    select service, operation, stage, calls, grown_ms as ms, p90_grown_ms as p90_ms, baseline_p50_ms as before_ms, errors_more
    from change
    where callee is null
    union all
    select callee, callee_operation, coalesce(callee_stage, stage), calls, grown_ms - common_ms,
        p90_grown_ms - p90_common_ms, baseline_p50_ms, errors_more
    from change
    where callee is not null
    union all
    select service, operation, stage, calls, common_ms + (grown_ms - common_ms) / 2,
        p90_common_ms + (p90_grown_ms - p90_common_ms) / 2, baseline_p50_ms, 0
    from change
    where callee is not null
),
suspect as (
    select
        service,
        case when $by = 'operation' then operation end as operation,
        case when $by = 'operation' then any_value(stage) end as stage,
        sum(calls * ms) as delta_ms,
        sum(calls * p90_ms) as p90_delta_ms,
        -- Time added, weighted by the share of it that is new: drift of work that is called often is no culprit. An error
        -- that began here costs what a request takes.
        sum(calls * ms * case when ms > 0 then ms / (ms + before_ms) else 1 end)
            + sum(greatest(errors_more, 0)) * any_value(request_ms) as score_ms
    from part
    cross join counted
    where calls > 0
    group by service, case when $by = 'operation' then operation end
)
select
    service, stage, operation, null::varchar as value, delta_ms, p90_delta_ms,
    counted.requests, counted.baseline_requests
from counted
left join suspect on true
order by score_ms desc, service, operation
