-- One row a request: what it took, and how much of it each stage would have saved, at a factor on the stage's time.
with request as (
    select
        request_id, trace_id, total_ms, output_tokens
    from requests
    where started >= $from_ts::timestamptz and started < $to_ts::timestamptz
        and ($route::varchar is null or route = $route)
        and ($tenant::varchar is null or tenant = $tenant)
        and ($model::varchar is null or model = $model)
        and not synthetic
),
part as (  -- of a span in one of the stages, on the critical path
    select
        request.request_id, request.trace_id, stage_spans.span_id, stage_spans.stage,
        stage_spans.critical_ms,
        spans.parent_span_id,
        spans.start_ns, spans.end_ns
    from request
    join stage_spans using (request_id, trace_id)
    join spans using (trace_id, span_id)
    where list_contains($stages::varchar[], stage_spans.stage)
),
factored as (  -- how much of its time a stage would take
    select
        request.request_id, request.trace_id, stages.stage,
        least(1, greatest(0, case
            when $budgets_ms::double[] is not null
                then list_extract($budgets_ms::double[], list_position($stages::varchar[], stages.stage))
                    / nullif(stages.critical_ms, 0)
            when $max_tokens::bigint is not null then $max_tokens::bigint / nullif(request.output_tokens, 0)
            when $factor::double is not null then $factor::double
        end)) as factor
    from request
    join stages using (request_id, trace_id)
    where list_contains($stages::varchar[], stages.stage)
),
shrunk as (  -- when each of its spans would have ended
    select
        part.request_id, part.trace_id, part.span_id,
        any_value(part.end_ns) - sum((1 - coalesce(factored.factor, 1)) * part.critical_ms * 1e6) as new_end_ns
    from part
    join factored using (request_id, trace_id, stage)
    group by part.request_id, part.trace_id, part.span_id
),
rival as (  -- the latest end of what ran beside it: beyond that, nothing is saved
    select
        part.request_id, part.trace_id, part.span_id, part.stage,
        max(coalesce(shrunk.new_end_ns, beside.end_ns::double)) as end_ns
    from part
    join spans as beside
        on beside.trace_id = part.trace_id
        and beside.parent_span_id = part.parent_span_id
        and beside.span_id <> part.span_id
        and beside.start_ns < part.end_ns
    left join shrunk
        on shrunk.request_id = part.request_id
        and shrunk.trace_id = part.trace_id
        and shrunk.span_id = beside.span_id
    group by part.request_id, part.trace_id, part.span_id, part.stage
),
saved as (
    select
        part.request_id, part.trace_id, part.stage,
        case
            when $parallel::boolean then sum(part.critical_ms) - max(part.critical_ms)
            else sum(least(
                (1 - coalesce(factored.factor, 1)) * part.critical_ms,
                greatest(part.end_ns - coalesce(rival.end_ns, 0), 0) / 1e6
            ))
        end as saved_ms
    from part
    left join factored using (request_id, trace_id, stage)
    left join rival using (request_id, trace_id, span_id, stage)
    where part.critical_ms > 0
    group by part.request_id, part.trace_id, part.stage
)
select
    request.request_id,
    request.total_ms,
    list(saved.stage order by saved.stage) filter (where saved.stage is not null) as stages,
    list(saved.saved_ms order by saved.stage) filter (where saved.stage is not null) as saved_ms
from request
left join saved using (request_id, trace_id)
group by request.request_id, request.trace_id, request.total_ms
order by request.request_id
