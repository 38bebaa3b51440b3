-- One row a resource that was not there yet.
insert into resources by name
select resource_id, service, instance, version, region, attrs::JSON as attrs
from batch_resources
on conflict do nothing
