-- Puts a rewritten file in the old one's place.
update sealed_files
set file = $new, n = $n, bytes = $bytes, sealed = $now
where file = $old
