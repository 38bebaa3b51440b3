"""From spans to requests: which spans make a request, its critical path, its model calls, its stages."""

from .assembler import Assembler, TickReport

__all__ = ["Assembler", "TickReport"]
