-- A list of JSON as JSON.
create or replace macro json_listed(parts) as to_json(parts);

-- Lower end of Wilson's interval at 95 % of the share of k in n; null for n = 0.
create or replace macro wilson_low(k, n) as case when n > 0
    then greatest(0, (k / n + 1.9208 / n - 1.96 * sqrt(k / n * (1 - k / n) / n + 0.9604 / n / n)) / (1 + 3.8416 / n)) end;

-- Its upper end.
create or replace macro wilson_high(k, n) as case when n > 0
    then least(1, (k / n + 1.9208 / n + 1.96 * sqrt(k / n * (1 - k / n) / n + 0.9604 / n / n)) / (1 + 3.8416 / n)) end;

-- Both, as a struct.
create or replace macro wilson(k, n) as case when n > 0 then {'low': wilson_low(k, n), 'high': wilson_high(k, n)} end;
