"""The tee: accepted bodies passed on, unchanged, to other OTLP/HTTP endpoints."""

from .address import Address, parse_headers
from .forwarder import Forwarder

__all__ = ["Address", "Forwarder", "parse_headers"]
