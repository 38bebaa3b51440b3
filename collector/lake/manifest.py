"""What a store of objects holds: the files that each collector's newest manifest lists, and no other."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from tailbudget.analytics.reader import QueryError
from tailbudget.analytics.window import length
from tailbudget.instrument.errors import UserError

MANIFESTS: Final = "manifests"
_NUMBER: Final = re.compile(r"(\d{10})\.json")


@dataclass(frozen=True)
class Sealed:
    """A file: of which table and hour (ISO, empty for tables without a time), its place below the prefix, its rows."""

    table: str
    hour: str
    file: str
    rows: int
    bytes: int
    fingerprint: str


@dataclass(frozen=True)
class Manifest:
    """All that one collector has sealed, as of one of its uploads."""

    collector: str
    number: int
    files: tuple[Sealed, ...]

    def text(self) -> bytes:
        """Return the manifest as JSON."""
        return json.dumps(asdict(self), indent=1).encode()


class Lake:
    """The store below `s3://bucket/prefix` or a folder.

    An address may end in `?endpoint_override=HOST:PORT&scheme=http` for a store other than Amazon's; keys come from
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or from what the machine has. `keep=90d` in it says how long hours are
    kept, without which they are for ever. Raises UserError for another address.
    """

    def __init__(self, url: str) -> None:
        url, self.keep = _kept(url)
        try:
            if "://" in url:
                self.files, self.root = fs.FileSystem.from_uri(url)
            else:
                self.files, self.root = fs.LocalFileSystem(), str(Path(url).absolute())
        except (pa.ArrowInvalid, OSError) as error:
            text = f"{url!r} is no place for files ({error}): expected s3://bucket/prefix or a folder"
            raise UserError(text) from None
        self._scheme = "s3a://" if url.startswith("s3://") else ""

    def manifests(self) -> Mapping[str, Manifest]:
        """Return the newest manifest of each collector that can be read; raises QueryError where none is."""
        try:
            found = self.files.get_file_info(fs.FileSelector(self._at(MANIFESTS), allow_not_found=True, recursive=True))
        except OSError as error:
            raise QueryError(f"the files at {self.root} cannot be listed: {error}") from error
        newest: dict[str, Manifest] = {}
        for path in sorted((one.path for one in found if _NUMBER.fullmatch(one.base_name)), reverse=True):
            collector = path.rsplit("/", 2)[1]
            if collector not in newest and (manifest := self._read(path)) is not None:
                newest[collector] = manifest
        return newest

    def tables(self) -> dict[str, list[str]]:
        """Return the addresses of all listed files by table, as Spark takes them."""
        tables: dict[str, list[str]] = {}
        for manifest in self.manifests().values():
            for one in manifest.files:
                tables.setdefault(one.table, []).append(self._scheme + self._at(one.file))
        return tables

    def write(self, manifest: Manifest) -> None:
        """List the files of a manifest: from now on readers see them."""
        with self.opened(f"{MANIFESTS}/{manifest.collector}/{manifest.number:010d}.json") as out:
            out.write(manifest.text())

    def opened(self, place: str) -> Any:
        """Return a stream to a new file below the prefix; the file is there once the stream is closed."""
        path = self._at(place)
        if isinstance(self.files, fs.LocalFileSystem):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        return self.files.open_output_stream(path)

    def size(self, place: str) -> int:
        """Return how many bytes a file has."""
        return int(self.files.get_file_info(self._at(place)).size)

    def read(self, table: str) -> list[pa.Table]:
        """Return the listed files of a table."""
        places = [one.file for manifest in self.manifests().values() for one in manifest.files if one.table == table]
        return [pq.read_table(self._at(place), filesystem=self.files) for place in places]

    def forget_manifests(self, collector: str, *, before: int) -> None:
        """Delete a collector's manifests with a lower number."""
        found = self.files.get_file_info(fs.FileSelector(self._at(f"{MANIFESTS}/{collector}"), allow_not_found=True))
        for one in found:
            if (match := _NUMBER.fullmatch(one.base_name)) and int(match[1]) < before:
                self.files.delete_file(one.path)

    def delete(self, place: str) -> None:
        """Delete one file below the prefix, if it is there."""
        try:
            self.files.delete_file(self._at(place))
        except FileNotFoundError:
            return

    def places(self, collector: str) -> list[str]:
        """Return every file of data that a collector has written, listed or not."""
        found = self.files.get_file_info(fs.FileSelector(self.root, allow_not_found=True, recursive=True))
        skip = len(self.root) + 1
        return [one.path[skip:] for one in found if one.base_name.endswith(f"-{collector}.parquet")]

    def _at(self, place: str) -> str:
        return f"{self.root}/{place}"

    def _read(self, path: str) -> Manifest | None:
        """Return a manifest, None for one that was torn while it was written."""
        with self.files.open_input_stream(path) as file:
            text = file.read()
        try:
            fields = json.loads(text)
            return Manifest(fields["collector"], fields["number"], tuple(Sealed(**one) for one in fields["files"]))
        except (ValueError, KeyError, TypeError):
            return None


def _kept(url: str) -> tuple[str, timedelta | None]:
    """Return an address without `keep=...`, and the length of time that it says; raises UserError for none."""
    place, _, query = url.partition("?")
    parts = [part for part in query.split("&") if part]
    said = [part.removeprefix("keep=") for part in parts if part.startswith("keep=")]
    rest = "&".join(part for part in parts if not part.startswith("keep="))
    try:
        return f"{place}?{rest}" if rest else place, length(said[0]) if said else None
    except ValueError as error:
        raise UserError(f"keep in {url!r}: {error}") from None
