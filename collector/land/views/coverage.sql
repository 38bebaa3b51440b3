-- What each service sends; made anew at every start, so that files of earlier versions have them too. The comment above a view and behind
-- the columns of its last select become its `comment on` in the database.

-- Which instrumentation sends spans of this scope and rule, null for one that nobody has named: first match wins.
create or replace macro dialect_of(scope, rule) as case
    when lower(scope) like 'tailbudget%' then 'tailbudget'
    when lower(scope) like 'vllm%' then 'vLLM'
    when lower(scope) like 'sglang%' then 'SGLang'
    when lower(scope) like 'openinference%' then 'OpenInference'
    when lower(scope) like 'logfire%' then 'Logfire'
    when lower(scope) like 'pydantic-ai%' then 'Pydantic AI'
    when lower(scope) like 'openlit%' then 'OpenLIT'
    when lower(scope) like 'litellm%' then 'LiteLLM'
    when lower(scope) like 'langfuse%' then 'Langfuse'
    when lower(scope) like 'langsmith%' then 'LangSmith'
    when lower(scope) like 'genkit%' then 'Genkit'
    when lower(scope) = 'ai' then 'Vercel AI SDK'
    when lower(scope) like 'opentelemetry.instrumentation.genai%' then 'OpenTelemetry GenAI'
    when lower(scope) like 'opentelemetry.instrumentation.openai_v2%' then 'OpenTelemetry GenAI'
    when lower(scope) like 'opentelemetry.instrumentation.google_genai%' then 'OpenTelemetry GenAI'
    when lower(scope) like 'com.anthropic.%' then 'OpenTelemetry GenAI'
    when lower(rule) like 'slo.%' then 'tailbudget'
    when lower(rule) like 'engine%' then 'vLLM'
    when lower(rule) like 'sglang%' then 'SGLang'
    when lower(rule) like 'openinference%' then 'OpenInference'
    when lower(rule) like 'logfire%' then 'Logfire'
    when lower(rule) like 'litellm%' then 'LiteLLM'
    when lower(rule) like 'langfuse%' then 'Langfuse'
    when lower(rule) like 'vercel%' then 'Vercel AI SDK'
    when lower(rule) like 'genkit%' then 'Genkit'
    when lower(rule) like 'traceloop%' then 'OpenLLMetry'
    when lower(rule) like 'request type%' then 'OpenLLMetry'
    when lower(scope) like 'opentelemetry.instrumentation.%.v1' then 'OpenLLMetry'
    when lower(rule) like 'genai%' then 'OpenTelemetry GenAI'
    when lower(rule) like 'tool%' then 'OpenTelemetry GenAI'
    when lower(rule) like 'model by %' then 'OpenTelemetry GenAI'
    when lower(rule) like 'vector store%' then 'OpenTelemetry database'
    when lower(rule) like 'database%' then 'OpenTelemetry database'
    when lower(rule) like 'http%' then 'OpenTelemetry HTTP'
    when lower(rule) like 'asgi%' then 'OpenTelemetry HTTP'
end;

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

-- What is missing and the line that adds it, of the places where something is.
create or replace macro holes(whats, adds) as list_filter(
    list_transform(list_zip(whats, adds), lambda pair: {'what': pair[1], 'add': pair[2]}), lambda hole: hole.what is not null
);

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
        count(*) filter (where not regexp_matches(coalesce(server_address, ''), '^api[.]|[.](amazonaws|azure|googleapis)[.]com')) as own,
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
        'tailbudget.init(' || to_json(service.service)::varchar || ')' as init,
        case
            when asked.route like '/%'
            then 'app = tailbudget.ASGIMiddleware(app, budgets_ms={' || to_json(asked.route)::varchar || ': {"total": 2500}})'
            else 'with tailbudget.request(' || to_json(asked.route)::varchar || ', budgets_ms={"total": 2500}): ...'
        end as marked
    from service
    left join sender on sender.service is not distinct from service.service
    left join called on called.service is not distinct from service.service
    left join asked on asked.service is not distinct from service.service
    left join assembled on assembled.service is not distinct from service.service
)
select
    service, dialects, spans, last_span, calls, ttft_share, tokens_share, server_share, requests, stands_for, budget_share, ended,
    assembled, assembled_share,
    holes(
        [
            case when service is null and spans > 0 then 'name of the service' end,
            case when serves_users and coalesce(ttft_share, 1) < 0.9 then 'ttft' end,
            case when serves_users and tokens_share < 0.9 then 'tokens' end,
            case when own_engine and server_share < 0.5 then 'server stages' end,
            case
                when serves_users and budget_share < 0.9 and ended is null then 'budgets, count of requests'
                when serves_users and budget_share < 0.9 then 'budgets'
                when serves_users and requests > 0 and ended is null then 'count of requests'
            end,
            case when most_share < 0.99 then 'requests' end
        ],
        [
            'OTEL_SERVICE_NAME=...',
            case when openai_untimed then init else 'chunks = tailbudget.stream(chunks)' end,
            'stream_options={"include_usage": True}  # in each streamed call',
            'OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf vllm serve ... --otlp-traces-endpoint http://127.0.0.1:4318/v1/traces',
            case when coalesce(budget_share, 1) >= 0.9 and list_contains(dialects, 'tailbudget') then init else marked end,
            'OTEL_BSP_MAX_QUEUE_SIZE=65536  # in the environment of the service'
        ]
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
