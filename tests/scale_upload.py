"""One upload of a data file to a store of objects that dies at its Nth step, if told so: `FOLDER URL NOW [STEP]`."""

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from tailbudget.analytics.reader import DATABASE_NAME
from tailbudget.collector.lake import uploader
from tailbudget.collector.lake.manifest import Lake
from tailbudget.collector.lake.uploader import Uploader

DIED = 77


class Dying(Lake):
    """A lake whose process is gone at its Nth step: before a file, in the midst of it, or after it is there."""

    steps = 0
    last = 0

    def _step(self) -> None:
        Dying.steps += 1
        if Dying.steps == Dying.last:
            os._exit(DIED)

    def opened(self, place: str) -> Any:
        """Open a file, with a step before, one once it is open, and one after it was closed."""
        self._step()
        stream = super().opened(place)
        self._step()
        close = stream.close

        class Stream:
            def __getattr__(self, name: str) -> Any:
                return getattr(stream, name)

            def __enter__(self) -> Any:
                return stream

            def __exit__(inner, *error: object) -> None:  # noqa: N805 - the lake is meant by self
                close()
                self._step()

        return Stream()

    def delete(self, place: str) -> None:
        """Delete a file, with a step before."""
        self._step()
        super().delete(place)


def main() -> None:
    """Upload once."""
    folder, url, now, *step = sys.argv[1:]
    uploader.FILES = 3  # type: ignore[misc]  # several manifests an upload
    Dying.last = int(step[0]) if step else 0
    with duckdb.connect(str(Path(folder) / DATABASE_NAME), read_only=True) as connection:
        connection.execute("set timezone = 'UTC'")
        Uploader(connection, Dying(url), seal_after=timedelta(0)).tick(datetime.fromisoformat(now))


if __name__ == "__main__":
    main()
