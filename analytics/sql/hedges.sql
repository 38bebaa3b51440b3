-- One row a hedge: attempts that it sent, how many of them won, and tokens that the losers had generated.
with figure as (
    select resource_id, attrs, 'sent' as what, grown from counted('slo.hedge.sent', $from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select resource_id, attrs, 'won', grown from counted('slo.hedge.won', $from_ts::timestamptz, $to_ts::timestamptz)
    union all
    select resource_id, attrs, 'wasted', grown from counted('slo.hedge.wasted_tokens', $from_ts::timestamptz, $to_ts::timestamptz)
)
select
    service, figure.attrs->>'$."slo.guard"' as hedge,
    sum(grown) filter (where what = 'sent') as sent,
    sum(grown) filter (where what = 'won') as won,
    sum(grown) filter (where what = 'wasted') as wasted_tokens
from figure
left join resources using (resource_id)
group by all
order by wasted_tokens desc nulls last, hedge
