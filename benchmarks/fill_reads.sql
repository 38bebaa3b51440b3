-- A day of traffic up to $until: $spans spans in traces of 16, a server span and 15 below it, and one request a trace.
insert into spans_open by name
select md5((i // 16)::VARCHAR)::UUID as trace_id,
       hash(i) as span_id,
       if(i % 16 = 0, null, hash(i - i % 16)) as parent_span_id,
       if(i % 16 = 0, 'POST /chat', ['retrieval docs', 'chat gpt-small', 'prompt build', 'post format'][1 + i % 4]) as name,
       if(i % 16 = 0, 'SERVER', 'CLIENT') as kind,
       make_timestamptz(start_ns // 1000) as started,
       start_ns,
       start_ns + duration_ns as end_ns,
       duration_ns,
       'shop' as service,
       'bench' as scope,
       'UNSET' as status,
       1 as resource_id,
       if(i % 16 = 0, 'container', 'call') as role,
       'other' as rule,
       'gpt-small' as model,
       700 + i % 512 as input_tokens,
       '{"gen_ai.request.model": "gpt-small", "n": ' || i || '}' as attrs
from (
    select range as i,
           epoch_ns($until::TIMESTAMPTZ) - (86400 * (1 - (i - i % 16) / $spans) * 1e9)::BIGINT as start_ns,
           (5e8 + 1e9 * (hash(i) % 1000) / 1000)::BIGINT as duration_ns
    from range($spans)
);
