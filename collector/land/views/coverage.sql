-- What each service sends; made anew at every start, so that files of earlier versions have them too. The comment above a view and behind
-- the columns of its last select become its `comment on` in the database.

-- Which instrumentation sends spans of this scope and rule, null for one that nobody has named: first match wins.
create or replace macro dialect_of(scope, rule) as (
    select arg_min(listed.dialect, listed.place)
    from (
        values
            (1, 'tailbudget%', 'scope', 'tailbudget'),
            (2, 'vllm%', 'scope', 'vLLM'),
            (3, 'sglang%', 'scope', 'SGLang'),
            (4, 'openinference%', 'scope', 'OpenInference'),
            (5, 'logfire%', 'scope', 'Logfire'),
            (6, 'pydantic-ai%', 'scope', 'Pydantic AI'),
            (7, 'openlit%', 'scope', 'OpenLIT'),
            (8, 'litellm%', 'scope', 'LiteLLM'),
            (9, 'langfuse%', 'scope', 'Langfuse'),
            (10, 'langsmith%', 'scope', 'LangSmith'),
            (11, 'genkit%', 'scope', 'Genkit'),
            (12, 'ai', 'scope', 'Vercel AI SDK'),
            (13, 'opentelemetry.instrumentation.genai%', 'scope', 'OpenTelemetry GenAI'),
            (14, 'opentelemetry.instrumentation.openai_v2%', 'scope', 'OpenTelemetry GenAI'),
            (15, 'opentelemetry.instrumentation.google_genai%', 'scope', 'OpenTelemetry GenAI'),
            (16, 'com.anthropic.%', 'scope', 'OpenTelemetry GenAI'),
            (20, 'slo.%', 'rule', 'tailbudget'),
            (21, 'engine%', 'rule', 'vLLM'),
            (22, 'sglang%', 'rule', 'SGLang'),
            (23, 'openinference%', 'rule', 'OpenInference'),
            (24, 'logfire%', 'rule', 'Logfire'),
            (25, 'litellm%', 'rule', 'LiteLLM'),
            (26, 'langfuse%', 'rule', 'Langfuse'),
            (27, 'vercel%', 'rule', 'Vercel AI SDK'),
            (28, 'genkit%', 'rule', 'Genkit'),
            (29, 'traceloop%', 'rule', 'OpenLLMetry'),
            (30, 'request type%', 'rule', 'OpenLLMetry'),
            (31, 'opentelemetry.instrumentation.%.v1', 'scope', 'OpenLLMetry'),
            (32, 'genai%', 'rule', 'OpenTelemetry GenAI'),
            (33, 'tool%', 'rule', 'OpenTelemetry GenAI'),
            (34, 'model by %', 'rule', 'OpenTelemetry GenAI'),
            (35, 'vector store%', 'rule', 'OpenTelemetry database'),
            (36, 'database%', 'rule', 'OpenTelemetry database'),
            (37, 'http%', 'rule', 'OpenTelemetry HTTP'),
            (38, 'asgi%', 'rule', 'OpenTelemetry HTTP')
    ) as listed(place, pattern, field, dialect)
    where lower(if(listed.field = 'scope', scope, rule)) like listed.pattern
);

-- One row a service and route whose requests the service counts itself (slo.requests.ended): how many ended in [from_t, to_t), by its
-- count, and how many were assembled of those that it speaks of; of sampled ones as many as they stand for, with the variance of
-- that estimate in `spread`.
create or replace macro counted_requests(from_t, to_t) as table
with edge as (
    select from_t::timestamptz as since, to_t::timestamptz as until
),
point as (  -- also some from before, which tell where the first count begins
    select
        resources.service, metrics.attrs ->> '$.route' as route, metrics.resource_id, metrics.attrs,
        coalesce(metrics.temporality, '') = 'delta' as delta,
        coalesce(metrics.started, metrics.t) as started, metrics.t, metrics.value, edge.since,
        metrics.t >= edge.since and metrics.t <= edge.until as inside
    from metrics
    join resources using (resource_id)
    cross join edge
    where metrics.name = 'slo.requests.ended' and metrics.t >= from_t::timestamptz - interval 10 minute
),
counter as (
    select
        service, route,
        case
            when delta then sum(value) filter (where inside and started >= since)
            else max(value) filter (where inside)
                - coalesce(max(value) filter (where t < since), if(min(started) >= since, 0, min(value) filter (where inside)))
        end as n
    from point
    group by service, route, resource_id, attrs, delta, since, if(delta, null, started)
),
spell as (  -- an SDK's first point begins when it was read, not when the process began: only a second one tells its beginning
    select
        service,
        case
            when not bool_or(t < since) then since
            when delta then min(started) filter (where inside and started >= since)
            else max(t) filter (where t < since)
        end as begun,
        max(t) filter (where inside) as last_t
    from point
    group by service, resource_id, delta, since
),
spoken as (
    select service, min(begun) as begun, max(last_t) as last_t from spell group by service
),
ended as (
    select spoken.service, counters.route, coalesce(counters.n, 0)::bigint as ended, spoken.begun, spoken.last_t
    from spoken
    left join (select service, route, sum(n) as n from counter group by service, route) as counters
        on counters.service is not distinct from spoken.service
),
came as (
    select
        requests.service, requests.route, round(sum(coalesce(requests.weight, 1)))::bigint as assembled,
        sum(coalesce(requests.weight * (requests.weight - 1), 0)) as spread
    from spoken
    join requests
        on requests.service is not distinct from spoken.service and requests.root_kind = 'slo'
        and requests.started + to_microseconds((requests.total_ms * 1e3)::bigint) > spoken.begun
        and requests.started + to_microseconds((requests.total_ms * 1e3)::bigint) <= spoken.last_t
    group by requests.service, requests.route
)
select
    coalesce(ended.service, came.service) as service, coalesce(ended.route, came.route) as route,
    coalesce(ended.ended, 0) as ended, coalesce(came.assembled, 0) as assembled, coalesce(came.spread, 0) as spread
from ended
full join came on came.service is not distinct from ended.service and came.route is not distinct from ended.route;

-- The table of the view `coverage` over so much time before the newest span: from coverage_over('1 hour').
create or replace macro coverage_over(span) as table
with edge as (
    select least(now(), newest) - span::interval as since
    from (select max(started) as newest from spans)
),
origin as (
    select service, scope, rule, count(*) as n, max(started) as last_span
    from spans
    where started >= (select since from edge)
    group by all
),
named as (
    select scope, rule, dialect_of(scope, rule) as dialect
    from (select distinct scope, rule from origin)
),
sender as (
    select
        service,
        list_sort(list(distinct dialect) filter (where dialect is not null)) as dialects,
        sum(n)::bigint as spans,
        max(last_span) as last_span
    from origin
    left join named on named.scope is not distinct from origin.scope and named.rule = origin.rule
    group by service
),
called as (
    select
        service,
        count(*) as calls,
        count(*) filter (where stream is distinct from false) as streams,
        count(ttft_ms) as timed,
        count(*) filter (where outcome = 'ok') as answered,
        count(*) filter (where outcome = 'ok' and input_tokens is not null and output_tokens is not null) as counted,
        count(*) filter (where split = 'server') as served,
        count(*) filter (where not regexp_matches(coalesce(server_address, ''), '^api\.|\.(amazonaws|azure|googleapis)\.com')) as own,
        mode(provider) as provider
    from calls
    where started >= (select since from edge)
    group by service
),
budgeted as (
    select distinct request_id, trace_id
    from stages
    where budget_ms is not null and started >= (select since from edge)
),
asked as (
    select
        requests.service,
        count(*) as requests,
        sum(coalesce(requests.weight, 1)) as stands_for,
        count(*) filter (where requests.budget_ms is not null or budgeted.request_id is not null) as held,
        mode(requests.route) as route
    from requests
    left join budgeted using (request_id, trace_id)
    where requests.started >= (select since from edge)
    group by requests.service
),
assembled as (
    select service, sum(ended)::bigint as ended, sum(assembled)::bigint as assembled, sum(spread) as spread
    from counted_requests((select since from edge), now() - interval 15 second)  -- spans of the last seconds are on their way
    group by service
),
service as (
    select service from sender
    union
    select service from called
    union
    select service from asked
    union
    select service from assembled
),
measured as (
    select
        service.service,
        coalesce(sender.dialects, []) as dialects,
        coalesce(sender.spans, 0) as spans,
        sender.last_span,
        coalesce(called.calls, 0) as calls,
        called.timed / nullif(called.streams, 0) as ttft_share,
        called.counted / nullif(called.answered, 0) as tokens_share,
        called.served / nullif(called.calls, 0) as server_share,
        coalesce(asked.requests, 0) as requests,
        round(coalesce(asked.stands_for, 0))::bigint as stands_for,
        asked.held / nullif(asked.requests, 0) as budget_share,
        assembled.ended,
        assembled.assembled,
        assembled.assembled / nullif(assembled.ended, 0) as assembled_share,
        (assembled.assembled + 1.96 * sqrt(assembled.spread)) / nullif(assembled.ended, 0) as most_share,
        coalesce(called.own, 0) > 0 as own_engine,
        called.provider = 'openai' and not list_contains(sender.dialects, 'tailbudget') as openai_untimed,
        not list_has_all(['vLLM', 'SGLang'], coalesce(sender.dialects, [])) as serves_users,
        to_json(service.service)::varchar as quoted,
        case
            when asked.route like '/%' then printf('app = tailbudget.ASGIMiddleware(app, budgets_ms={%s: {"total": 2500}})', to_json(asked.route))
            else printf('with tailbudget.request(%s, budgets_ms={"total": 2500}): ...', to_json(asked.route))
        end as marked
    from service
    left join sender on sender.service is not distinct from service.service
    left join called on called.service is not distinct from service.service
    left join asked on asked.service is not distinct from service.service
    left join assembled on assembled.service is not distinct from service.service
)
select
    * exclude (own_engine, openai_untimed, serves_users, quoted, marked, most_share),
    list_filter(
        [
            case when service is null and spans > 0 then {'what': 'name of the service', 'add': 'OTEL_SERVICE_NAME=...'} end,
            case
                when not serves_users or coalesce(ttft_share, 1) >= 0.9 then null
                when openai_untimed then {'what': 'ttft', 'add': printf('tailbudget.init(%s)', quoted)}
                when ttft_share < 0.9 then {'what': 'ttft', 'add': 'chunks = tailbudget.stream(chunks)'}
            end,
            case
                when serves_users and tokens_share < 0.9
                then {'what': 'tokens', 'add': 'stream_options={"include_usage": True}  # in each streamed call'}
            end,
            case
                when own_engine and server_share < 0.5
                then {
                    'what': 'server stages',
                    'add': 'OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf '
                        || 'vllm serve ... --otlp-traces-endpoint http://127.0.0.1:4318/v1/traces'
                }
            end,
            case
                when serves_users and budget_share < 0.9 and ended is null then {'what': 'budgets, count of requests', 'add': marked}
                when serves_users and budget_share < 0.9 then {'what': 'budgets', 'add': marked}
                when serves_users and requests > 0 and ended is null
                then {'what': 'count of requests', 'add': if(list_contains(dialects, 'tailbudget'), printf('tailbudget.init(%s)', quoted), marked)}
            end,
            case
                when most_share < 0.99
                then {'what': 'requests', 'add': 'OTEL_BSP_MAX_QUEUE_SIZE=65536  # in the environment of the service'}
            end
        ],
        lambda hole: hole is not null
    ) as missing
from measured
order by service nulls last;

-- One row a service that sent something in the last 24 hours before the newest span: what of its requests and calls can be measured.
create or replace view coverage as
select
    service,           -- service.name, null for senders without one
    dialects,          -- instrumentations seen in its spans, sorted
    spans,             -- spans received
    last_span,         -- start of the newest one
    calls,             -- model calls
    ttft_share,        -- of the calls that stream, or do not say: how many have a first token; null without any
    tokens_share,      -- of the calls that ended ok: how many have both token counts
    server_share,      -- of the calls: how many were cut into queue, prefill and decode by the server's own span
    requests,          -- requests assembled
    stands_for,        -- requests that they stand for, more than they are where traces are sampled
    budget_share,      -- of the requests: how many have a budget, of the total or of a stage
    ended,             -- requests that the service counted itself (slo.requests.ended) until 15 s ago, null when it counts none
    assembled,         -- requests assembled in the time that this count spans
    assembled_share,   -- assembled / ended; below 0.99 spans are lost on the way
    missing            -- what is missing (a share below 0.9, of server stages 0.5) and the one line that adds it
from coverage_over('1 day');
