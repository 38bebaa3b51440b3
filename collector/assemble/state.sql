-- What the assembler keeps in memory between ticks: traces whose root was seen, so that a late span waits for nothing;
-- spans of the last minutes that were joined into a call of another trace, so that both are assembled together again; and
-- the routes that made calls, so that a request that was shed or failed before its first call counts.
create temp table if not exists rooted (trace_id uuid, seen timestamptz);
create temp table if not exists abroad (trace_id uuid, response_id varchar, seen timestamptz);
create temp table if not exists served as
select distinct service, route from requests where calls > 0;

-- Empty where a tick has none.
create temp table if not exists twin (outer_call bigint, inner_call bigint, level integer, alone boolean);
create temp table if not exists tail (i bigint, call bigint);
create temp table if not exists cost (req bigint, usd double);
create temp table if not exists over (req bigint, over_stage varchar, over_by varchar, over_budget_ms double, over_ms double);

-- Two rules that several files share.
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
end
