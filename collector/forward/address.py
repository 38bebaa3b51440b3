"""Where bodies are passed on to, and the headers that go with them."""

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from typing import Final
from urllib.parse import unquote, urlsplit

from tailbudget.instrument.errors import UserError

SCHEMES: Final = ("http", "https")
HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-zA-Z-]+")
#: What says how the body came, which is passed on too.
TAKEN: Final = frozenset({"host", "connection", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Address:
    """The base of an OTLP/HTTP endpoint, as OTEL_EXPORTER_OTLP_ENDPOINT has it, and what it asks of a sender."""

    host: str
    port: int | None
    path: str
    tls: bool
    authorization: str | None  # from user and password in the URL

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Return the address. Raises UserError for a URL that is no such base."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # a port that is none, half an IPv6 address
            parts, port = urlsplit(""), None
        written = url.isascii() and url.isprintable() and " " not in url
        if not written or parts.scheme not in SCHEMES or not parts.hostname or parts.query or parts.fragment:
            expected = "expected the base of an OTLP/HTTP endpoint, such as http://tempo:4318"
            raise UserError(f"forward is {url!r}: {expected}")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {b64encode(pair.encode()).decode()}"
        return cls(parts.hostname, port, parts.path.rstrip("/"), parts.scheme == "https", authorization)

    @property
    def name(self) -> str:
        """The address without secrets, as metrics and logs show it."""
        scheme = "https" if self.tls else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}{'' if self.port is None else f':{self.port}'}{self.path}"

    def connection(self, *, timeout_s: float) -> HTTPConnection:
        """Return a connection that opens with its first request."""
        kind = HTTPSConnection if self.tls else HTTPConnection
        return kind(self.host, self.port, timeout=timeout_s)


def parse_headers(texts: Iterable[str]) -> dict[str, str]:
    """Return the headers written as NAME=VALUE. Raises UserError, without showing a value, for what is none."""
    fields = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not HEADER_NAME.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise UserError(f"forward header {name!r}: expected NAME=VALUE, such as X-Scope-OrgID=team-a")
        if name.lower() in TAKEN or name.lower().startswith("content-"):
            raise UserError(f"forward header {name!r} is set by what is passed on: give another one")
        fields[name] = value
    return fields
