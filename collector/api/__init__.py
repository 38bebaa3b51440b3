"""The read API: SQL over HTTP, health and the collector's own metrics."""
