-- What the assembler keeps in memory between ticks: traces whose root was seen, so that a late span waits for nothing,
-- and engine spans of the last minutes that no call was found for. And one rule that two files share.
create temp table if not exists rooted (trace_id uuid, seen timestamptz);
create temp table if not exists lonely (trace_id uuid, response_id varchar, seen timestamptz);

-- Whether an error says that the caller stopped listening: its last word, since types come with their modules.
create or replace temp macro gave_up(error) as coalesce(
    regexp_matches(error, '(CancelledError|GeneratorExit|ClientDisconnect|AbortError|abandoned stream)\W*$'), false
);
