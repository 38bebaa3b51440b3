"""The collector's own metrics, as `/metrics` shows them."""

import threading
from collections import Counter as Counts
from functools import partial
from typing import Final

import prometheus_client as prometheus

WORK_BUCKETS_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Counters:
    """Counts what happened to every span, point and body, for `/metrics` and, by minute, for `ingest_health`."""

    def __init__(self) -> None:
        self.registry: Final = prometheus.CollectorRegistry()
        counter = partial(prometheus.Counter, registry=self.registry)
        gauge = partial(prometheus.Gauge, registry=self.registry)
        histogram = partial(prometheus.Histogram, registry=self.registry)
        self.bodies = counter("tailbudget_bodies", "Request bodies by answer", ["signal", "status"])
        self.received = counter("tailbudget_received_bytes", "Bytes received, before unpacking", ["signal"])
        items = "Spans, points, attributes and records by what became of them"
        self.items = counter("tailbudget_items", items, ["signal", "reason"])
        self.failures = counter("tailbudget_failures", "Work of the lander that raised", ["work"])
        work = "Duration of one transaction by kind of work"
        self.work_s = histogram("tailbudget_work_seconds", work, ["work"], buckets=WORK_BUCKETS_S)
        self.lag_s = gauge("tailbudget_landing_lag_seconds", "Age of the oldest body that waits to land")
        self.queue = gauge("tailbudget_queue_bodies", "Bodies that wait to land")
        self.queue_bytes = gauge("tailbudget_queue_bytes", "Memory of what waits decoded")
        waits = "How long the trace has waited that was ripe for assembly first"
        self.assembly_lag_s = gauge("tailbudget_assembly_lag_seconds", waits)
        self.journal = gauge("tailbudget_journal_bytes", "Acknowledged, not landed")
        self.forwarded = counter("tailbudget_forwarded_bodies", "Bodies that a target of --forward took", ["target"])
        dropped = "Accepted bodies that a target of --forward did not get"
        self.forward_dropped = counter("tailbudget_forward_dropped_bodies", dropped, ["target", "reason"])
        self.forward_queue = gauge("tailbudget_forward_queue_bytes", "Bodies that wait to be passed on", ["target"])
        self.scrape_up = gauge("tailbudget_scrape_up", "1 when the engine answered its last scrape", ["instance"])
        self.scrapes = counter("tailbudget_scrapes", "Scrapes of engines by how they ended", ["instance", "status"])
        slo = ["objective", "part"]
        self.slo_events = counter("tailbudget_slo_events", "Events that count for an objective", slo)
        self.slo_bad = counter("tailbudget_slo_bad", "Bad events of an objective", slo)
        self.decoder = gauge("tailbudget_decoder", "1 for the decoder of OTLP bodies that runs", ["name"])
        self._lock = threading.Lock()
        self._unstored: Counts[tuple[str | None, str, str]] = Counts()

    def dropped(self, signal: str, reason: str, n: int = 1, *, service: str | None = None) -> None:
        """Count what will not land: `take_unstored` hands it to the next transaction."""
        with self._lock:
            self._unstored[service, signal, reason] += n

    def take_unstored(self) -> Counts[tuple[str | None, str, str]]:
        """Return what was counted since the last call; it must be given back when it could not be stored."""
        with self._lock:
            taken, self._unstored = self._unstored, Counts()
        return taken

    def give_back(self, taken: Counts[tuple[str | None, str, str]]) -> None:
        """Take back what could not be stored."""
        with self._lock:
            self._unstored += taken

    def stored(self, counted: Counts[tuple[str | None, str, str]]) -> None:
        """Count what landed, with what became of the rest."""
        for (_, signal, reason), n in counted.items():
            self.items.labels(signal, reason).inc(n)

    def lag(self) -> float:
        """Return the age in seconds of the oldest body that waits to land."""
        (family,) = self.lag_s.collect()
        return float(family.samples[0].value)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus.generate_latest(self.registry)
