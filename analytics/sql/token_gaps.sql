-- One row a gap between two chunks of one request's streams, in order, milliseconds since the request's start; a stall as its sender counts it.
with call as (
    select *
    from calls
    where trace_id = $trace_id::uuid
        and request_id = $request_id
),
joined as (
    select unnest(spans) as span_id, ttft_ms, server_ttft_ms
    from call
),
stream as (
    select
        streams.side,
        streams.model,
        streams.gaps_us,
        streams.span_id,
        epoch_us(streams.started) - epoch_us($started::timestamptz) as span_us,
        any_value(spans.ttft_ns) / 1e3 as first_us,
        max(if(side = 'client', joined.ttft_ms, joined.server_ttft_ms)) * 1e3 as call_first_us,
        greatest(1e6, 8 * list_extract(list_sort(streams.gaps_us), (len(streams.gaps_us) + 1) // 2)::double) as limit_us
    from streams
    left join spans on spans.trace_id = streams.trace_id and spans.span_id = streams.span_id
    left join joined on joined.span_id = streams.span_id
    where streams.trace_id = $trace_id::uuid
        and streams.request_id = $request_id
        and len(streams.gaps_us) > 0
    group by all
),
placed as (  -- without a first token it is taken to have come with the span's start
    select
        row_number() over (order by span_us, side, span_id) as lane,
        *,
        span_us + coalesce(first_us, call_first_us, 0) as begin_us
    from stream
),
gap as (
    select
        lane, side, model, begin_us, limit_us, len(gaps_us) as gaps, list_sum(gaps_us) as took_us,
        unnest(gaps_us) as gap_us,
        unnest(range(len(gaps_us))) + 1 as number
    from placed
),
timed as (
    select *, begin_us + sum(gap_us) over (partition by lane order by number) as to_us
    from gap
)
select
    lane,
    side,
    model,
    number,
    (to_us - gap_us) / 1e3 as from_ms,
    to_us / 1e3 as to_ms,
    gap_us / 1e3 as gap_ms,
    gap_us > limit_us as stalled,
    gaps + 1 as chunks,
    gaps / nullif(took_us / 1e6, 0) as chunks_per_s,
    $until_ms::double as until_ms
from timed
order by lane, number
