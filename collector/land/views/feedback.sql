-- What users made of an answer, in one word: converted, completed, not completed, not converted, or the score as text.
create or replace macro feedback_said(score, completed, converted) as case
    when converted then 'converted'
    when completed then 'completed'
    when not completed then 'not completed'
    when not converted then 'not converted'
    else score::varchar
end;
