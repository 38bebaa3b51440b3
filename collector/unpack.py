"""Gzip that unpacks only as much as it may."""

from typing import Final

from isal import isal_zlib

#: 16 for gzip's header, 15 for the largest window.
GZIP: Final = 31
#: No request body is larger; gzip packs at most 1,032 to 1.
NO_LIMIT: Final = 1 << 40


class TooLargeError(Exception):
    """The data unpack to more than the limit."""


class BadGzipError(Exception):
    """The data are no gzip, or end early."""


def gunzip(data: bytes, *, limit: int = NO_LIMIT) -> bytes:
    """Return the unpacked data, of all members one after the other.

    At most `limit` bytes and one are ever unpacked. Raises TooLargeError beyond it, BadGzipError for bad data.
    """
    parts: list[bytes] = []
    left, size = limit + 1, len(data)
    while data:
        member = isal_zlib.decompressobj(GZIP)
        try:
            part: bytes = member.decompress(data, left)
        except isal_zlib.error as error:  # type: ignore[misc]  # its stub declares an instance, it is a class
            raise BadGzipError(f"{size} bytes are no gzip: {error}") from error
        parts.append(part)
        left -= len(part)
        if left <= 0:
            raise TooLargeError(f"more than {limit} bytes when unpacked: send smaller batches")
        if not member.eof:
            raise BadGzipError(f"{size} bytes of gzip end early: expected whole members and nothing behind them")
        data = member.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)
