-- One row: the newest request with this id.
select *
from requests
where request_id = $request_id
order by started desc
limit 1;
