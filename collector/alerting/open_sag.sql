-- Opens an alert, or opens it again; model, provider and instance are those of the series' last bin.
insert into alerts by name
select
    $alert_id as alert_id, 'sag' as kind, $series as rule, $severity as severity, $opened as opened, null::timestamptz as closed,
    arg_max(model, t) as model, arg_max(provider, t) as provider, arg_max(instance, t) as instance,
    $value as value, $threshold as threshold,
    printf(
        '%s on %s (%s): %s come %.1fx slower than expected',
        coalesce(arg_max(model, t), 'model'), coalesce(arg_max(instance, t), 'unknown server'), arg_max(side, t),
        case arg_max(unit, t) when 'chunk' then 'chunks' else 'tokens' end, $value
    ) || coalesce(', cause: ' || $cause, '') || coalesce(', together with ' || $scope, '') as summary,
    $scope as scope
from decode_rate
where series = $series and t >= $opened::timestamptz - interval 1 hour
on conflict do update set
    closed = null, severity = excluded.severity, value = excluded.value, summary = excluded.summary,
    scope = excluded.scope
