"""Divides what a GPU spent over the requests that it computed for; the rest is idle, and nothing is lost."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: While the counter is silent (a lost GPU) the steps of some minutes are kept; what older ones spent becomes idle.
KEPT_STEPS = 20_000
#: Two threads read the counter: a value that is lower by less than a second's worth was overtaken by a later one.
OVERTAKEN_J = 1_000


@dataclass(frozen=True)
class _Step:
    start_ns: int
    end_ns: int
    tokens: dict[str, int]


@dataclass
class _Open:
    start_ns: int
    spent_j: float = 0.0


@dataclass
class _Counter:
    joules: float
    read_ns: int


class EnergyAccountant:
    """Keeps the energy of each request, by the GPU's counter and the engine's steps; safe from any threads.

    Between two values of the counter power is taken for constant. The share of a step is divided over its sequences by
    tokens computed; what was spent outside of steps, or in one that computed nothing, is idle. So `requests_j + idle_j`
    (and what an open step has so far) is what the counter grew by since its first value, exactly. `read` gives the
    counter in joules now, or None; without it a request's end waits for no reading.
    """

    def __init__(self, read: Callable[[], float | None] | None = None) -> None:
        #: Joules of all requests so far, those that were taken included, and of none.
        self.requests_j = 0.0
        self.idle_j = 0.0
        self._read = read
        self._lock = threading.Lock()
        self._counter: _Counter | None = None
        self._open: _Open | None = None
        self._steps: deque[_Step] = deque(maxlen=KEPT_STEPS)
        self._requests_j: dict[str, float] = defaultdict(float)

    def step_started(self, now_ns: int | None = None) -> None:
        """Take note that the GPU computes from now on. A step that was never ended computed nothing."""
        with self._lock:
            now_ns = time.perf_counter_ns() if now_ns is None else now_ns
            self._close({}, now_ns)
            self._open = _Open(now_ns)

    def step_ended(self, tokens: Mapping[str, int], now_ns: int | None = None) -> None:
        """Take note that the step is over, in which so many tokens were computed for each request."""
        with self._lock:
            self._close(tokens, time.perf_counter_ns() if now_ns is None else now_ns)

    def sampled(self, joules: float, now_ns: int | None = None) -> None:
        """Take in the counter's value; one that went back far (the driver was loaded anew) starts it afresh."""
        with self._lock:
            self._settle(joules, time.perf_counter_ns() if now_ns is None else now_ns)

    def take(self, request: str) -> float | None:
        """Return the joules of a request that is over, and forget it; None where the counter was never read."""
        if self._read is not None and (joules := self._read()) is not None:
            self.sampled(joules)
        with self._lock:
            for step in self._steps:  # what the counter has not told yet stays with requests, of no name
                if request in step.tokens:
                    step.tokens[""] = step.tokens.get("", 0) + step.tokens.pop(request)
            return self._requests_j.pop(request, 0.0) if self._counter else None

    def _close(self, tokens: Mapping[str, int], now_ns: int) -> None:
        step, self._open = self._open, None
        if step is None or self._counter is None:
            return
        self._share(step.spent_j, tokens)
        start_ns = max(step.start_ns, self._counter.read_ns)
        self._steps.append(_Step(start_ns, max(start_ns, now_ns), dict(tokens)))

    def _settle(self, joules: float, now_ns: int) -> None:
        last = self._counter
        if last and (now_ns <= last.read_ns or 0 < last.joules - joules < OVERTAKEN_J):
            return
        self._counter = _Counter(joules, now_ns)
        steps, self._steps = self._steps, deque(maxlen=KEPT_STEPS)
        if last is None or joules < last.joules:
            return
        left_j = joules - last.joules
        joules_a_ns = left_j / (now_ns - last.read_ns)
        for step in steps:
            spent_j = joules_a_ns * (step.end_ns - step.start_ns)
            self._share(spent_j, step.tokens)
            left_j -= spent_j
        if self._open:
            spent_j = joules_a_ns * (now_ns - max(self._open.start_ns, last.read_ns))
            self._open.spent_j += spent_j
            left_j -= spent_j
        self.idle_j += left_j

    def _share(self, spent_j: float, tokens: Mapping[str, int]) -> None:
        computed = sum(tokens.values())
        if not computed:
            self.idle_j += spent_j
            return
        self.requests_j += spent_j
        for request, count in tokens.items():
            self._requests_j[request] += spent_j * count / computed
