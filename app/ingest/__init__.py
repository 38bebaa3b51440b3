"""`tailbudget ingest`: files of telemetry, read as the OTLP bodies that they hold and sent to a collector."""
