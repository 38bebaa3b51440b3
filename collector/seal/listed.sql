-- One row a sealed file of the view.
select file
from sealed_files
where "view" = $view
order by first, file
