-- Says how the budget of one objective and part stands.
insert into slo_status by name
select
    $slice as slice, $measure as measure, $limit_ms::double as limit_ms,
    $objective as objective, $part as part, $judged::timestamptz as judged, $goal as goal, $target as target, $period as period,
    $n::bigint as n, $bad::bigint as bad, $good_share as good_share, $budget_left as budget_left, $hours_left::double as hours_left,
    $burn_1h::double as burn_1h, $burn_6h::double as burn_6h, $burn_1d::double as burn_1d, $burn_3d::double as burn_3d,
    $firing::varchar[] as firing, $blind_since::timestamptz as blind_since, $owner as owner, $runbook as runbook,
    $requests::double as requests, $margin::double as margin, $running::bigint as running, $coverage::double as coverage
