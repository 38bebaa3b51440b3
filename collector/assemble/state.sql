-- What the assembler keeps in memory between ticks, and makes anew from what is stored when it starts: where the spans of a
-- trace lie and whether its root was seen, so that a late span waits for nothing and finds the others; spans of the last
-- minutes that were joined into a call of another trace, so that both are assembled together again; and the routes that
-- made calls, so that a request that was shed or failed before its first call counts.
create temp table if not exists trace_state as
select
    trace_id, min(start_ns) as first_ns, max(end_ns) as last_ns, bool_or(parent_span_id is null) as root_seen,
    max(least(started, now())) as seen
from spans_open
where started >= (select max(started) - interval 15 minute from spans_open where started <= now())
group by trace_id;
create temp table if not exists abroad as
select spans.trace_id, any_value(call.response_id) as response_id, max(least(spans.started, now())) as seen
from (
    select trace_id, response_id, unnest(spans) as span_id
    from calls
    where response_id is not null and started >= (select max(started) - interval 10 minute from calls where started <= now())
) as call
join spans_open as spans on spans.span_id = call.span_id and spans.trace_id <> call.trace_id
where spans.started >= (select max(started) - interval 20 minute from calls where started <= now())
group by spans.trace_id;
create temp table if not exists served as
select distinct service, route from requests where calls > 0;

-- Empty where a tick has none.
create temp table if not exists twin (outer_call bigint, inner_call bigint, level integer, alone boolean);
create temp table if not exists tail (i bigint, call bigint);
create temp table if not exists cost (req bigint, usd double);
create temp table if not exists call_cost (i bigint, req bigint, usd double);
create temp table if not exists over (req bigint, over_stage varchar, over_by varchar, over_budget_ms double, over_ms double);

-- Rules that several files share.
-- Whether an error says that the caller stopped listening: its last word, since types come with their modules.
create or replace temp macro gave_up(error) as coalesce(
    regexp_matches(error, '(CancelledError|GeneratorExit|ClientDisconnect|AbortError|abandoned stream)\W*$'), false
);
-- The microseconds in slo.stream.gaps: after a version byte little-endian 32-bit words, of which the first 4,096 are gaps.
create or replace temp macro stream_gaps(encoded) as case
    when left(hex(try(from_base64(encoded))), 2) = '01'
    then list_transform(
        list_slice(regexp_extract_all(substr(hex(try(from_base64(encoded))), 3), '.{8}'), 1, 4096),
        lambda word: ('0x' || word[7:8] || word[5:6] || word[3:4] || word[1:2])::uinteger
    )
end;
-- How many traces one that was sampled stands for: its tracestate says with which threshold (th: 56 bits, trailing zeros left
-- out; OpenTelemetry's probability sampling), or, of older samplers, with which power of a half (p; 63 is none). Null without
-- one. No more than a million: a wrong one must not be all there is.
create or replace temp macro sampled_weight(tracestate) as case
    when regexp_matches(tracestate, '(^|,)\s*ot=([^,]*;)?th:[0-9a-f]{1,14}([;,]|$)')
    then least(
        1e6,
        pow(2, 56) / (pow(2, 56) - ('0x' || rpad(regexp_extract(tracestate, '(?:^|,)\s*ot=(?:[^,]*;)?th:([0-9a-f]+)', 1), 14, '0'))::ubigint)
    )
    when regexp_matches(tracestate, '(^|,)\s*ot=([^,]*;)?p:([0-9]|[1-5][0-9]|6[0-2])([;,]|$)')
    then least(1e6, pow(2, regexp_extract(tracestate, '(?:^|,)\s*ot=(?:[^,]*;)?p:([0-9]+)', 1)::integer))
end;
-- The bucket of a value in the roll-up: each is 2 % wider than the one before.
create or replace temp macro rollup_bucket(ms) as case
    when ms > 0 then least(greatest(ceil(ln(ms) / ln(1.02)), -32767), 32767)::integer else -32768
end;
