"""A thread that brings what a collector has to the stores it shares with others; landing never waits for it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import duckdb

from tailbudget.analytics.reader import QueryError

from .counters import Counters
from .lake.manifest import Lake
from .lake.uploader import Uploader
from .settings import CollectorSettings
from .store.mirror import Mirror

log: Final = logging.getLogger(__name__)
#: A store that is away is asked again so often, and spoken of once in so many seconds.
AGAIN_S: Final = 2.0
SAID_EVERY_S: Final = 60.0
MIRROR_EVERY_S: Final = 0.5  # it knows itself what is due
UPLOAD_EVERY_S: Final = 60.0


@dataclass
class Errand:
    """One store: its name, the seconds between two ticks, and what a tick does."""

    name: str
    every_s: float
    tick: Callable[[datetime], int]
    next_s: float = 0.0
    said_s: float = 0.0


def stores(connection: duckdb.DuckDBPyConnection, settings: CollectorSettings) -> Sequence[Errand]:
    """Return an errand a store that the settings name; raises UserError for an address that is none."""
    found = []
    if settings.store:
        mirror = Mirror(connection.cursor(), settings.store, keep=settings.keep)
        found.append(Errand("store", MIRROR_EVERY_S, mirror.tick))
    if settings.seal_to:
        uploader = Uploader(connection.cursor(), Lake(settings.seal_to), seal_after=settings.seal_after)
        found.append(Errand("sealing to the lake", UPLOAD_EVERY_S, uploader.tick))
    return found


class Outward:
    """Runs errands until closed. An error is counted as `store`, told once a minute, and its errand tried again."""

    def __init__(self, errands: Sequence[Errand], counters: Counters) -> None:
        self._errands = errands
        self._counters = counters
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outward", daemon=True)
        if errands:
            self._thread.start()

    def close(self) -> None:
        """End after the tick that runs."""
        self._stop.set()
        if self._errands:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            for one in self._errands:
                if time.monotonic() >= one.next_s and not self._stop.is_set():
                    self._tick(one)

    def _tick(self, one: Errand) -> None:
        try:
            if written := one.tick(datetime.now(UTC)):
                log.debug("%s: %d written", one.name, written)
            one.next_s = time.monotonic() + one.every_s
        except Exception as error:  # noqa: BLE001 - whatever a store does, the collector goes on
            hint = f" ({error.hint})" if isinstance(error, QueryError) and error.hint else ""
            self._counters.failures.labels(one.name).inc()
            one.next_s = time.monotonic() + AGAIN_S
            if time.monotonic() > one.said_s:
                one.said_s = time.monotonic() + SAID_EVERY_S
                text = next(iter(str(error).splitlines()), type(error).__name__)
                log.warning("%s: %s%s; nothing is lost, it is tried again", one.name, text, hint)
