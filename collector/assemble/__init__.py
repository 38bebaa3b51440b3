"""From spans to requests: which spans make a request, its critical path, its model calls, its stages."""

from .assembler import Assembler, TickReport
from .live import Live

__all__ = ["Assembler", "Live", "TickReport"]
