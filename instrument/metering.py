"""Metrics that cost the hot path nothing: plain integers, read by OpenTelemetry when it collects.

`slo.decode.*` says how fast tokens come while streams are decoding, `slo.requests.*` counts requests outside sampling.
"""

import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from . import providers
from .running import registry
from .vocabulary import (
    DECODE_ACTIVE_STREAM_TIME,
    DECODE_CHUNKS,
    DECODE_STREAMS,
    DECODE_TOKENS,
    REQUESTS_ACTIVE,
    REQUESTS_ENDED,
    REQUESTS_OLDEST_AGE,
    REQUESTS_STARTED,
    TELEMETRY_DROPPED,
    convert,
)

Side = Literal["client", "server"]
Labels = dict[str, str]

#: Requests are counted for so many (route, tenant, outcome); a service with more tenants counts the rest as "other".
MAX_SERIES = 1_000


class Progress(Protocol):
    """A stream that is decoding and can say how far it is."""

    ended: bool

    def progress(self) -> tuple[int, int, int]:
        """Return tokens reported, chunks after the first token, nanoseconds since the first token; none ever falls."""


class DecodeMeter:
    """Counts what one model on one server decodes.

    An engine calls `add` once a step; a client's streams are watched, so that a chunk costs nothing here and a stream
    that hangs shows while it hangs.
    """

    def __init__(self, *, model: str, provider: str, server_address: str, side: Side) -> None:
        self.labels: Labels = {"model": model, "provider": provider, "server.address": server_address, "side": side}
        self._tokens = 0
        self._chunks = 0
        self._active_ns = 0
        self._streams = 0
        self._peak = 0
        self._watched: set[Progress] = set()
        self._ended: deque[Progress] = deque()
        self._lock = threading.Lock()

    def stream_started(self) -> None:
        """Count one more stream as decoding."""
        self._streams += 1
        self._peak = max(self._peak, self._streams + len(self._watched))

    def stream_ended(self) -> None:
        """Count one stream less."""
        self._streams -= 1

    def add(self, *, tokens: int = 0, chunks: int = 0, active_ns: int = 0) -> None:
        """Add tokens, chunks and the time that streams spent decoding them, summed over the streams."""
        self._tokens += tokens
        self._chunks += chunks
        self._active_ns += active_ns

    def watch(self, stream: Progress) -> None:
        """Read the progress of `stream` at every collection, until `unwatch`."""
        self._watched.add(stream)
        self._peak = max(self._peak, self._streams + len(self._watched))

    def unwatch(self, stream: Progress) -> None:
        """Keep the final figures of `stream`, which has `ended`, and let go of it.

        Safe in a finaliser: it never waits. When a collection holds the lock, the next call folds this stream in.
        """
        self._ended.append(stream)
        if self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def totals(self) -> tuple[int, int, int]:
        """Return tokens, chunks and active nanoseconds since the start; none ever falls."""
        with self._lock:
            self._fold()
            reports = [(self._tokens, self._chunks, self._active_ns)]
            reports += [stream.progress() for stream in tuple(self._watched)]
        tokens, chunks, active_ns = (sum(column) for column in zip(*reports, strict=True))
        return tokens, chunks, active_ns

    def peak(self) -> int:
        """Return the most streams that decoded at once since the last call."""
        now = self._streams + sum(not stream.ended for stream in tuple(self._watched))
        peak, self._peak = max(self._peak, now), now
        return peak

    def after_fork(self) -> None:
        """Watch no stream of the parent's."""
        self._lock = threading.Lock()
        self._watched.clear()
        self._streams = self._peak = 0

    def _fold(self) -> None:
        while self._ended:
            stream = self._ended.popleft()
            if stream in self._watched:
                self._watched.discard(stream)
                tokens, chunks, active_ns = stream.progress()
                self.add(tokens=tokens, chunks=chunks, active_ns=active_ns)


class RequestCounts:
    """Counts requests that started and ended, by route and tenant, whatever sampling does with their spans."""

    def __init__(self) -> None:
        # Reentrant: a garbage collection inside the lock may finalise a stream and with it end a request.
        self._lock = threading.RLock()
        self.started: Counter[tuple[str, str]] = Counter()
        self.ended: Counter[tuple[str, str, str]] = Counter()
        self.active: Counter[tuple[str, str]] = Counter()

    def start(self, route: str, tenant: str) -> tuple[str, str]:
        """Count a request in; returns the key with which it must be counted out."""
        register()
        with self._lock:
            key = (route, tenant if len(self.started) < MAX_SERIES or (route, tenant) in self.started else "other")
            self.started[key] += 1
            self.active[key] += 1
        return key

    def end(self, key: tuple[str, str], *, route: str, tenant: str, outcome: str) -> None:
        """Count a request out under the route and tenant that it turned out to have."""
        with self._lock:
            self.active[key] -= 1
            ended = (route, tenant, outcome)
            if len(self.ended) >= MAX_SERIES and ended not in self.ended:
                ended = (route, "other", outcome)
            self.ended[ended] += 1

    def after_fork(self) -> None:
        """Count the requests of this process alone."""
        self._lock = threading.RLock()
        self.active.clear()


_meters: dict[tuple[str, str, str, str], DecodeMeter] = {}
request_counts = RequestCounts()
_registered: set[Meter] = set()


def decode_meter(*, model: str, provider: str, server_address: str, side: Side) -> DecodeMeter:
    """Return the meter of this model on this server, the same one at every call; it is exported from now on."""
    key = (model, provider, server_address, side)
    found = _meters.get(key)
    if found is None:
        register()
        found = _meters.setdefault(
            key, DecodeMeter(model=model, provider=provider, server_address=server_address, side=side)
        )
    return found


def register() -> None:
    """Create the instruments on the current meter, once for each."""
    meter = providers.meter()
    if meter in _registered:
        return
    _registered.add(meter)
    _register_decode(meter)
    _register_requests(meter)
    _register_losses(meter)


def after_fork() -> None:
    """Forget what runs in the parent alone: its requests and streams end there."""
    request_counts.after_fork()
    for meter in _meters.values():
        meter.after_fork()


def _register_decode(meter: Meter) -> None:
    def tokens(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(m.totals()[0], m.labels) for m in tuple(_meters.values())]

    def chunks(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(m.totals()[1], m.labels) for m in tuple(_meters.values())]

    def active_time(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(convert(m.totals()[2], "ns", "s"), m.labels) for m in tuple(_meters.values())]

    def streams(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(m.peak(), m.labels) for m in tuple(_meters.values())]

    meter.create_observable_counter(DECODE_TOKENS, [tokens], unit="{token}")
    meter.create_observable_counter(DECODE_CHUNKS, [chunks], unit="{chunk}")
    meter.create_observable_counter(DECODE_ACTIVE_STREAM_TIME, [active_time], unit="s")
    meter.create_observable_gauge(DECODE_STREAMS, [streams], unit="{stream}")


def _register_requests(meter: Meter) -> None:
    def labelled(counts: Counter[tuple[str, str]]) -> Iterator[Observation]:
        for (route, tenant), n in counts.copy().items():
            yield Observation(n, _labels(route, tenant))

    def started(_: CallbackOptions) -> Iterable[Observation]:
        return labelled(request_counts.started)

    def active(_: CallbackOptions) -> Iterable[Observation]:
        return labelled(request_counts.active)

    def oldest_age(_: CallbackOptions) -> Iterable[Observation]:
        ages = registry.oldest_s()
        for route, tenant in request_counts.active.copy():
            yield Observation(ages.get((route, tenant), 0.0), _labels(route, tenant))

    def ended(_: CallbackOptions) -> Iterable[Observation]:
        for (route, tenant, outcome), n in request_counts.ended.copy().items():
            yield Observation(n, _labels(route, tenant) | {"outcome": outcome})

    meter.create_observable_counter(REQUESTS_STARTED, [started], unit="{request}")
    meter.create_observable_counter(REQUESTS_ENDED, [ended], unit="{request}")
    meter.create_observable_gauge(REQUESTS_ACTIVE, [active], unit="{request}")
    meter.create_observable_gauge(REQUESTS_OLDEST_AGE, [oldest_age], unit="s")


def _register_losses(meter: Meter) -> None:
    def lost(_: CallbackOptions) -> Iterable[Observation]:
        losses = sys.modules.get(f"{__package__}.losses")  # loaded by those alone who export
        return [Observation(n, {"reason": reason}) for reason, n in losses.dropped.copy().items()] if losses else []

    meter.create_observable_counter(TELEMETRY_DROPPED, [lost], unit="{span}")


def _labels(route: str, tenant: str) -> Labels:
    return {"route": route, "tenant": tenant} if tenant else {"route": route}
