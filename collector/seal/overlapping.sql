-- One row a sealed file of the view with rows in [$from_us, $to_us).
select file
from sealed_files
where "view" = $view and last >= make_timestamptz($from_us) and first < make_timestamptz($to_us)
order by file
