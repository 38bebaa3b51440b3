-- Opens an alert, or keeps it open with what is known now.
insert into alerts by name
select
    $alert_id as alert_id, $kind as kind, $rule as rule, $severity as severity, $opened::timestamptz as opened,
    null::timestamptz as closed, $value::double as value, $threshold::double as threshold, $summary as summary,
    $labels::json as labels, $owner as owner, $runbook as runbook,
    $degrade_first as degrade_first, $evidence::json as evidence, $fires::timestamptz as fires
on conflict do update set
    closed = null, value = greatest(alerts.value, excluded.value), threshold = excluded.threshold, summary = excluded.summary,
    owner = excluded.owner, runbook = excluded.runbook, evidence = excluded.evidence, degrade_first = excluded.degrade_first, fires = excluded.fires
