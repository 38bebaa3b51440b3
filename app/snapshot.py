"""`tailbudget snapshot`: everything that is stored as one file, from the running collector, else from a data folder."""

import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from tailbudget.analytics.duck import connect
from tailbudget.analytics.reader import DATABASE_NAME, QueryError, credentials, find_sealed
from tailbudget.collector.offline import offline_folder
from tailbudget.collector.seal.snapshot import Snapshots
from tailbudget.instrument.errors import UserError

from .reading import DEFAULT_API, DEFAULT_DATA

#: A copy is written whole before its first byte is sent.
TIMEOUT_S: Final = 3600


def snapshot(out: Path, *, api: str | None, data: Path | None) -> int:
    """Write the copy to `out` and return its size in bytes.

    Without `data` the collector at `api` answers, or ./.tailbudget when none runs there. Raises UserError when `out`
    exists or cannot be written, QueryError when there is nothing to copy from.
    """
    if out.exists():
        raise UserError(f"{out} exists: name a file that does not, or delete it")
    part = out.with_name(f"{out.name}.part")
    try:
        part.unlink(missing_ok=True)
        if data is not None or not _fetched(part, api):
            _copied(part, data or DEFAULT_DATA)
        part.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}): name another file") from error
    finally:
        part.unlink(missing_ok=True)
    return out.stat().st_size


def _fetched(part: Path, api: str | None) -> bool:
    """Write what the collector sends; False when none runs where none was named and a data folder is there."""
    url = f"{(api or DEFAULT_API).rstrip('/')}/v1/snapshot"
    request = urllib.request.Request(url, b"", credentials(), method="POST")  # noqa: S310 - our own API
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer, part.open("wb") as file:  # noqa: S310
            shutil.copyfileobj(answer, file)
    except urllib.error.HTTPError as error:
        raise QueryError(
            f"the collector answered {error.code}: {error.read().decode(errors='replace')[:300]}"
        ) from error
    except urllib.error.URLError as error:
        if api is None and DEFAULT_DATA.exists():
            return False
        hint = "start `tailbudget collector`, or name --api or --data"
        raise QueryError(f"no collector answers at {url}: {error.reason}", hint) from error
    return True


def _copied(part: Path, data: Path) -> None:
    with offline_folder(data) as folder, connect() as connection:
        connection.execute("set timezone = 'UTC'")
        find_sealed(connection, [folder])
        connection.execute(
            f"attach '{str(folder / DATABASE_NAME).replace(chr(39), chr(39) * 2)}' as source (read_only)"
        )
        connection.execute("use source")
        Snapshots(connection).write(part)
