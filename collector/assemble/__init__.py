"""From spans to requests: which spans make a request, its critical path, its model calls, its stages."""

from .assembler import Assembler, TickReport
from .file_budgets import FileBudgets
from .live import Live
from .rollup import pack_rollup

__all__ = ["Assembler", "FileBudgets", "Live", "TickReport", "pack_rollup"]
