-- Which of the steps that few traces need have anything to do, by name: each costs milliseconds to plan.
select
    coalesce(
        count(*) filter (where role = 'call') > count(distinct trace_id) filter (where role = 'call')
        or count(response_id) filter (where role = 'call') > count(distinct response_id) filter (where role = 'call'),
        false
    ) as twin,
    twin as outside,
    count(*) filter (where role = 'tail') > 0 as tail,
    tail as ended,
    count(*) filter (where role = 'slice') > 0 as slice,
    count(distinct coalesce(service, '')) filter (where role = 'call') > 1 as behind,
    count(gaps) > 0 as streams
from member
