-- A condition over requests: those whose trace has a span of `service`, and where `callee` is given, one that reaches it.
trace_id in (
    select trace_id
    from spans
    where started >= $from_ts::timestamptz - interval 1 hour
        and started < $to_ts::timestamptz + interval 1 hour
        and service = $service
        and (
            $callee::varchar is null
            or $callee in (server_address, peer, provider, model, name)
            or trace_id in (
                select trace_id
                from spans
                where started >= $from_ts::timestamptz - interval 1 hour
                    and started < $to_ts::timestamptz + interval 1 hour
                    and service = $callee
            )
        )
)
