-- Takes a file off the list: no view reads it any more.
delete from sealed_files
where file = $file
