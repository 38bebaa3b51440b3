"""The objectives that hold now: read from their files, and again when a file changes."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tailbudget.analytics.objectives import Objective, ObjectivesError, Watched, read

log: Final = logging.getLogger(__name__)


class ObjectiveFiles:
    """Reads files of objectives when they change; a bad file keeps what held before, and `error` says why.

    The first reading raises ObjectivesError, so that a collector does not start without what it was told to watch.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)
        self._seen = self._stamps()
        self.watched: Watched = read(self._files)
        self.error: str | None = None

    def refresh(self) -> tuple[Objective, ...]:
        """Return the objectives that hold now."""
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            try:
                self.watched, self.error = read(self._files), None
                log.info("%d objectives hold now", len(self.watched.objectives))
            except ObjectivesError as error:
                self.error = str(error)
                log.error("the objectives of before hold on: %s", error)
        return self.watched.objectives

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, self._files))


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
