"""Services that benchmarks run in processes of their own, and what those use."""
