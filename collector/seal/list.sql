-- One row a file that is sealed.
insert into sealed_files by name
select
    $file as file, $view as "view", make_timestamptz($first_us) as first, make_timestamptz($last_us) as last, $n as n,
    $bytes as bytes, $columns::varchar[] as columns, $now::timestamptz as sealed
