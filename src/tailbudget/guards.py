"""Guards against the tail: hedges, breakers, limits, queues, shedders, caches, fan-out."""

from tailbudget.instrument.guards import *  # noqa: F403
from tailbudget.instrument.guards import __all__ as __all__
