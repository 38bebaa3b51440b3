-- One row a service that sent something in so much time before the newest span: the columns of the view `coverage`.
from coverage_over($span::varchar)
