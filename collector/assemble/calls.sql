-- Replaces the rows that an earlier assembly gave these traces; every row starts within the spans of its trace.
delete from calls
where trace_id in (select trace_id from ripe) and started between make_timestamptz($first_us) and make_timestamptz($last_us);

insert into calls by name
select
    call.trace_id, call.span_id, request.request_id, make_timestamptz(call.us // 1000) as started, member.service,
    call.provider, call.model, call.stream, call.outcome, member.status_code, member.error,
    call.input_tokens, call.output_tokens, call.cached_tokens, member.max_tokens,
    case when call.input_tokens > 0 then try_cast(pow(2, ceil(log2(call.input_tokens))) as bigint) end as prompt_bucket,
    case when not alone then member.ttfc_ns end / 1e6 as ttfc_ms,
    case when not alone then call.ttft_ns end / 1e6 as ttft_ms,
    case when not alone then member.ttft_source end as ttft_source,
    call.server_ttft_ns / 1e6 as server_ttft_ms,
    case
        when call.output_tokens < 2 then null
        when call.ttft_ns is not null and not alone
        then greatest(coalesce(member.final_ns, call.len) - call.ttft_ns, 0) / 1e6 / (call.output_tokens - 1)
        when cut.split = 'server' then cut.decode / 1e6 / (call.output_tokens - 1)
    end as tpot_ms,
    call.len / 1e6 as total_ms,
    (if(cut.edge = 'network', cut.lead + cut.rest, 0) + cut.network) / 1e6 as network_ms,
    cut.queue / 1e6 as queue_ms, cut.prefill / 1e6 as prefill_ms, cut.decode / 1e6 as decode_ms,
    case when cut.split = 'first_token' then cut.prefill / 1e6 end as first_token_wait_ms,
    member.attempts, call.backoff_ns / 1e6 as backoff_ms, member.chunks, member.max_gap_ns / 1e6 as max_gap_ms,
    member.stalls, member.stall_ns / 1e6 as stall_ms, member.consumer_ns / 1e6 as consumer_ms,
    member.finish_reason, call.response_id, member.server_address, resources.region, cut.split, call.spans,
    call.call_role as role, member.hedged, call_cost.usd as cost_usd, call.gpu_s, call.energy_j
from call
join cut on cut.i = call.i
join member on member.rowid = call.m
left join resources on resources.resource_id = member.resource_id
left join request on request.req = call.req
left join call_cost on call_cost.i = call.i
