"""Pulls the Prometheus metrics of inference engines, which then go the way of every other body."""
