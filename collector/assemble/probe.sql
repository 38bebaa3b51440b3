-- Which of the steps that few traces need have anything to do: each costs milliseconds to plan.
select
    coalesce(
        count(*) filter (where role = 'call') > count(distinct trace_id) filter (where role = 'call')
        or count(response_id) filter (where role = 'call') > count(distinct response_id) filter (where role = 'call'),
        false
    ) as twin,
    count(*) filter (where role = 'tail') > 0 as tail,
    count(gaps) > 0 as streams
from member
