-- Gives back the memory that a tick worked in: kept until the next one, it is what landing then lacks.
drop table if exists stage;
drop table if exists request;
drop table if exists part;
drop table if exists piece;
drop table if exists cut;
drop table if exists call;
drop table if exists path;
drop table if exists walk;
drop table if exists node;
drop table if exists member;
drop table if exists ripe
