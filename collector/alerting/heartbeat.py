"""Calls an address while all is well, so that a dead collector pages through whoever misses the calls."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Final

from tailbudget.analytics.objectives.delivery import expand

from .objectives import ObjectiveFiles
from .senders import SendError, call

log: Final = logging.getLogger(__name__)


class Watchdog:
    """Its `update` is a chore of the thread that lands: a thread that hangs calls nobody.

    `unwell()` says what is wrong, null while all is well: then the address is called, as often as the file says.
    """

    def __init__(self, files: ObjectiveFiles, *, unwell: Callable[[datetime], str | None]) -> None:
        self._files = files
        self._unwell = unwell
        self._called: datetime | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="heartbeat")
        self._under_way: Future[None] | None = None

    def update(self, now: datetime) -> None:
        """Call when it is time to."""
        beat = self._files.watched.delivery.heartbeat
        if beat is None or (self._under_way and not self._under_way.done()):
            return
        if self._called is not None and now - self._called < timedelta(seconds=beat.every_s):
            return
        self._called = now
        if reason := self._unwell(now):
            log.error("no heartbeat: %s", reason)
        else:
            self._under_way = self._pool.submit(_call, beat.url)

    def close(self) -> None:
        """Wait for a call that is under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _call(url: str) -> None:
    try:
        call(expand(url))
    except KeyError as missing:
        log.error("no heartbeat: the environment has no %s", missing.args[0])
    except SendError as error:
        log.warning("the heartbeat was not heard: %s", error)
