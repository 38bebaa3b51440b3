-- Wilson's interval at 95 % of the share of k in n, as a struct; null for n = 0.
create or replace macro wilson(k, n) as case when n > 0 then {
    'low': greatest(0, (k / n + 1.9208 / n - 1.96 * sqrt(k / n * (1 - k / n) / n + 0.9604 / n / n)) / (1 + 3.8416 / n)),
    'high': least(1, (k / n + 1.9208 / n + 1.96 * sqrt(k / n * (1 - k / n) / n + 0.9604 / n / n)) / (1 + 3.8416 / n))
} end;
