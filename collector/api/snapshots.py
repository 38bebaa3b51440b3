"""POST /v1/snapshot: all that is stored as one DuckDB file, written below the data folder, sent and deleted."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Final
from uuid import uuid4

import duckdb

from ..asgi import Receive, Scope, Send, headers, respond_json
from ..land.database import SNAPSHOTS
from ..seal.snapshot import Snapshots

log: Final = logging.getLogger(__name__)

PATH: Final = "/v1/snapshot"
MEDIA: Final = b"application/vnd.duckdb"
PART_BYTES: Final = 1024 * 1024


class SnapshotRoute:
    """Answers one request at a time; `free_bytes` must stay free on the disk beside the copy."""

    def __init__(self, snapshots: Snapshots, data: Path, *, free_bytes: int) -> None:
        self._snapshots = snapshots
        self._folder = data / SNAPSHOTS
        self._data = data
        self._free_bytes = free_bytes
        self._busy = asyncio.Lock()
        _clear(self._folder)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if b"origin" in headers(scope):  # a page in a browser, which must not fill the disk of whoever looks at it
            await _refuse(send, 403, "a browser asks for a snapshot", "use tailbudget snapshot")
            return
        if self._busy.locked():
            await _refuse(send, 503, "another snapshot is being written", "try again")
            return
        async with self._busy:
            if reason := self._lacks_room():
                await _refuse(send, 507, reason, "free some of the disk")
                return
            path = self._folder / f"{uuid4().hex}.duckdb"
            try:
                await asyncio.to_thread(self._snapshots.write, path)
                await _send_file(send, path)
            except duckdb.Error as error:
                log.error("a snapshot failed: %s", error)
                await _refuse(send, 500, f"the snapshot failed: {str(error).splitlines()[0]}", "")
            finally:
                path.unlink(missing_ok=True)

    def _lacks_room(self) -> str | None:
        """Return what stands against a copy; sealed rows take about three times their Parquet in a data file."""
        sealed = sum(path.stat().st_size for path in self._data.glob("sealed/*/*"))
        needed = 3 * sealed + sum(path.stat().st_size for path in self._data.glob("*.duckdb*"))
        disk = os.statvfs(self._data)
        free = disk.f_bavail * disk.f_frsize - self._free_bytes
        return f"a copy may take {needed} bytes, the disk has {free} to spare" if needed > free else None


async def _send_file(send: Send, path: Path) -> None:
    size = (await asyncio.to_thread(path.stat)).st_size
    fields = [(b"content-type", MEDIA), (b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    with path.open("rb") as file:
        while part := await asyncio.to_thread(file.read, PART_BYTES):
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(send: Send, status: int, error: str, hint: str) -> None:
    await respond_json(send, status, {"error": error, "hint": hint or None, "position": None})


def _clear(folder: Path) -> None:
    """Make the folder, and delete what a crash left in it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
