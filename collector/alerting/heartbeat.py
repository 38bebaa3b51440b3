"""Calls an address while all is well, so that a dead collector pages through whoever misses the calls."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from .courier import Courier
from .objectives import ObjectiveFiles

log: Final = logging.getLogger(__name__)


class Watchdog:
    """Its `update` is a chore of the thread that lands: a thread that hangs calls nobody.

    `unwell()` says what is wrong, null while all is well: then the address is called, as often as the file says.
    """

    def __init__(self, files: ObjectiveFiles, courier: Courier, *, unwell: Callable[[datetime], str | None]) -> None:
        self._files = files
        self._courier = courier
        self._unwell = unwell
        self._called: datetime | None = None

    def update(self, now: datetime) -> None:
        """Call when it is time to."""
        beat = self._files.watched.delivery.heartbeat
        if beat is None or (self._called is not None and now - self._called < timedelta(seconds=beat.every_s)):
            return
        self._called = now
        if reason := self._unwell(now):
            log.error("no heartbeat: %s", reason)
        else:
            self._courier.call(beat.url)
