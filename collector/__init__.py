"""Receives OTLP, journals it, lands it in DuckDB, assembles requests and answers queries."""
