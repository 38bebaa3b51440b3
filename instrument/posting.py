"""Posts bodies over plain HTTP: the same as `requests`, for a tenth of the 1.5 million instructions each.

What is not plain (TLS, a proxy, a redirect) is left to `requests`, and an answer that is not to `http.client`.
"""

import io
import re
import socket
from http.client import HTTPException, HTTPResponse
from typing import Any, Final, cast
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3._collections import HTTPHeaderDict  # urllib3 1.26 has it nowhere else
from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)
from urllib3.util.wait import wait_for_read

READ_BYTES: Final = 16_384
LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?=\r\n|$)", re.IGNORECASE)
#: Of an answer's head: what says that its body is not just the bytes that follow, or that no other answer will.
ODD: Final = re.compile(
    rb"\r\n(?:[ \t]|transfer-encoding:|content-encoding:|connection:(?![ \t]*keep-alive[ \t]*(?:\r\n|$)))",
    re.IGNORECASE,
)
#: What goes on in the next line, which urllib3 joins.
FOLD: Final = re.compile(r"\r?\n[ \t]+")


class Post:
    """Posts to one URL with the headers of a prepared request, on a connection that is kept."""

    def __init__(self, prepared: requests.PreparedRequest) -> None:
        self._prepared = prepared
        self._pool = urllib3.connection_from_url(str(prepared.url))
        head = _Overheard(self._pool.host, self._pool.port)
        head.request("POST", prepared.path_url, headers=cast("Any", prepared.headers))
        self._head, self._rest = head.heard.split(b"\r\nContent-Length: 1\r\n")
        self._kept: HTTPConnection | None = None
        self._closes = 0

    @classmethod
    def of(cls, prepared: requests.PreparedRequest, proxies: Any) -> "Post | None":
        """Return what posts as this request says; None where only `requests` can."""
        url = str(prepared.url)
        if prepared.method != "POST" or urlsplit(url).scheme != "http" or requests.utils.select_proxy(url, proxies):
            return None
        try:
            return cls(prepared)
        except (ValueError, HTTPError):  # no such host, or a length that the user says
            return None

    def can(self, timeout_s: object) -> bool:
        """Say whether it posts with this timeout: `requests` knows pairs of them too, and refuses none and less."""
        return timeout_s is None or (isinstance(timeout_s, int | float) and timeout_s > 0)

    def send(self, body: bytes, timeout_s: float | None) -> requests.Response:
        """Return the answer; raises what `requests` raises where there is none."""
        closes = self._closes
        connection, self._kept = self._kept, None  # two threads that post at once have a connection each
        if connection is None or wait_for_read(connection.sock, 0):
            if connection:
                connection.close()  # as the other side did
            connection = self._connect(timeout_s)
        keep = False
        try:
            self._put(connection.sock, body, timeout_s)
            answer, keep = self._answer(connection.sock)
        finally:
            if keep and closes == self._closes and self._kept is None:
                self._kept = connection
            else:
                connection.close()
        return answer

    def close(self) -> None:
        """Close the connection; the next body opens another."""
        self._closes += 1  # one that is being used is closed after that
        connection, self._kept = self._kept, None
        if connection:
            connection.close()

    def _connect(self, timeout_s: float | None) -> HTTPConnection:
        connection = HTTPConnection(self._pool.host, self._pool.port, timeout=timeout_s)
        try:
            connection.connect()
        except HTTPError as error:
            late = isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError)
            kind = requests.ConnectTimeout if late else requests.ConnectionError
            failed = MaxRetryError(self._pool, str(self._prepared.path_url), error)
            raise kind(failed, request=self._prepared) from error
        return connection

    def _put(self, line: socket.socket, body: bytes, timeout_s: float | None) -> None:
        line.settimeout(timeout_s)
        try:
            line.sendall(b"%b\r\nContent-Length: %d\r\n%b%b" % (self._head, len(body), self._rest, body))
        except BrokenPipeError:
            pass  # who has read enough to refuse has answered
        except OSError as error:
            raise self._aborted(error) from error

    def _answer(self, line: socket.socket) -> tuple[requests.Response, bool]:
        """Return the answer, and whether another may come on this connection."""
        try:
            seen, plain = _read(line, self._prepared)
            return (plain, True) if plain is not None else self._odd(_Replay(seen, line))
        except requests.RequestException:
            raise
        except TimeoutError as error:
            late = ReadTimeoutError(self._pool, str(self._prepared.path_url), "Read timed out.")
            raise requests.ReadTimeout(late, request=self._prepared) from error
        except (HTTPException, OSError) as error:
            raise self._aborted(error) from error

    def _odd(self, replay: "_Replay") -> tuple[requests.Response, bool]:
        found = HTTPResponse(cast("socket.socket", replay), method="POST")
        found.begin()
        headers = ((name, FOLD.sub(" ", value)) for name, value in found.headers.items())
        answer = HTTPAdapter().build_response(
            self._prepared,
            urllib3.HTTPResponse(
                body=cast("Any", found),
                headers=HTTPHeaderDict(headers),
                status=found.status,
                reason=found.reason,
                preload_content=False,
                original_response=cast("Any", found),
            ),
        )
        _ = answer.content  # read now
        return answer, not found.will_close

    def _aborted(self, error: Exception) -> requests.ConnectionError:
        return requests.ConnectionError(ProtocolError("Connection aborted.", error), request=self._prepared)


class _Overheard(HTTPConnection):
    """Keeps what it would send."""

    heard = b""

    def send(self, data: Any) -> None:
        """Take note of it."""
        self.heard += data


class _Replay(io.RawIOBase):
    """What was read already and what comes after it, as `http.client` reads an answer."""

    def __init__(self, seen: bytes, line: socket.socket) -> None:
        self._seen = seen
        self._line = line

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return it as a file."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what there is."""
        if not self._seen:
            return self._line.recv_into(buffer)
        count = min(len(buffer), len(self._seen))
        buffer[:count], self._seen = self._seen[:count], self._seen[count:]
        return count


def _read(line: socket.socket, asked: requests.PreparedRequest) -> tuple[bytes, requests.Response | None]:
    """Return what was read, and the answer if it is plain: a head in one piece, 200, a body of stated length."""
    seen = line.recv(READ_BYTES)
    head, whole, body = seen.partition(b"\r\n\r\n")
    lengths = LENGTH.findall(head)
    if not whole or not head.startswith(b"HTTP/1.1 200 ") or len(lengths) != 1 or ODD.search(head):
        return seen, None
    size = int(lengths[0])
    while len(body) < size:
        more = line.recv(READ_BYTES)
        if not more:
            return seen, None
        seen += more
        body += more
    if len(body) > size:
        return seen, None
    status, *fields = head.decode("latin-1").split("\r\n")
    answer = requests.Response()
    answer.request, answer.url = asked, str(asked.url)
    answer.status_code, answer.reason = 200, status[len("HTTP/1.1 200 ") :]
    for field in fields:
        name, _, value = field.partition(":")
        answer.headers[name] = value.lstrip(" \t")
    answer.raw = io.BytesIO(body)
    return seen, answer
