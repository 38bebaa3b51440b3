-- The attribute with this key as text, null where the span has none; the key is one key, whatever dots or slashes it has.
create or replace macro attribute(attrs, key) as attrs->>('/' || replace(replace(key, '~', '~0'), '/', '~1'));
