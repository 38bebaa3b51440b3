"""Receives OTLP, journals it, lands it in DuckDB, assembles requests and answers queries."""

from .service import serve
from .settings import CollectorSettings

__all__ = ["CollectorSettings", "serve"]
