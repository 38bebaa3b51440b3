"""Guards against the tail, each of which reports what it does under its name (`slo.guard`)."""

from ..attempts import Attempt
from .breaker import CircuitBreaker
from .caches import EmbeddingCache, Hit, OutputCache, SemanticCache, normalised
from .errors import CircuitOpenError, LimitReachedError, QueueFullError, RefusedError, ShedError
from .fan_out import Branches, fan_out, fan_out_sync
from .hedge import Hedge
from .limit import AdaptiveLimit
from .shedder import LoadShedder, cpu_load
from .waiting import BoundedQueue

__all__ = [
    "AdaptiveLimit",
    "Attempt",
    "BoundedQueue",
    "Branches",
    "CircuitBreaker",
    "CircuitOpenError",
    "EmbeddingCache",
    "Hedge",
    "Hit",
    "LimitReachedError",
    "LoadShedder",
    "OutputCache",
    "QueueFullError",
    "RefusedError",
    "SemanticCache",
    "ShedError",
    "cpu_load",
    "fan_out",
    "fan_out_sync",
    "normalised",
]
