-- One row a stretch of a request's critical path, none longer than the gap between two children: i (the span that owns
-- it), a and b (nanoseconds). Walking back from the end of a span, the child that finished last is on the path, then the
-- one that finished last before that one began, and so on; of two that end together the one that began first counts.
-- A framework's empty container that begins while a sibling runs is off it: as a parser over a stream, which ends after the
-- call that it waits for.
create or replace temp table path as
with recursive child as (
    select
        i, up, cs, ce, framework and role = 'container' and stage is null
            and i not in (select up from walk where kept and up is not null) as empty
    from walk
    where kept and up is not null
),
running as (
    select
        *, max(ce) filter (where not empty) over (
            partition by up order by cs, i rows between unbounded preceding and 1 preceding
        ) as others_end
    from child
),
kid as (
    select
        i, up, cs, ce,
        -- it ends before all that end later begin: whichever of those are on the path, it is too
        coalesce(min(cs) over (partition by up order by ce desc, cs, i rows between unbounded preceding and 1 preceding) >= ce, true) as fits
    from running
    where not (empty and coalesce(others_end > cs, false))
),
bunch as (  -- several children that overlap: one that fits and those behind it that do not
    select i, up, cs, ce, count(*) filter (where fits) over backwards as n
    from kid
    where up in (select up from kid where not fits)
    window backwards as (partition by up order by ce desc, cs, i)
    qualify not fits or not lead(fits, 1, true) over backwards
),
clash as (
    select
        list(i) as all_i,
        list_reduce(
            list({'cs': cs, 'ce': ce, 'i': i, 'on_path': []::bigint[]} order by ce desc, cs, i),
            lambda later, x: case
                when x.ce <= later.cs
                then {'cs': x.cs, 'ce': x.ce, 'i': x.i, 'on_path': list_append(later.on_path, x.i)}
                else later
            end,
            {'cs': 9223372036854775807, 'ce': 0::bigint, 'i': 0::bigint, 'on_path': []::bigint[]}
        ).on_path as on_path
    from bunch
    group by up, n
),
off as (
    (
        select unnest(list_filter(all_i, lambda x: not list_contains(on_path, x))) as i
        from clash
        union all
        select i from running where empty and others_end > cs
    )
    union all
    select kid.i
    from off
    join kid on kid.up = off.i
),
on_path as (
    select i, up, cs, ce from walk where kept and i not in (select i from off)
),
mark as (
    select up as i, cs, ce, false as last from on_path where up is not null
    union all
    select i, ce, ce, true from on_path
),
gap as (
    select i, lag(ce) over (partition by i order by cs, ce, last) as a, cs as b
    from mark
)
select gap.i, coalesce(gap.a, on_path.cs) as a, gap.b
from gap
join on_path on on_path.i = gap.i
where gap.b > coalesce(gap.a, on_path.cs)
