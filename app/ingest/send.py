"""Sends the bodies of files to a collector, each until it is acknowledged, and counts exactly what became of them."""

import gzip
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from tailbudget.instrument.errors import UserError

from .files import Bad, Body, read_bodies

TIMEOUT_S: Final = 60.0
#: A collector that lands what it has taken asks to come back; it is given up after so long.
BUSY_FOR_S: Final = 120.0
RETRY: Final = frozenset({429, 503})
REPEATED: Final = "tailbudget-repeated"
LEVEL: Final = 1  # of gzip: the collector is on this machine or near it
Row = dict[str, Any]
#: The counts of an outcome, and how a person is told them.
COUNTS: Final = {"accepted": "", "rejected": "rejected", "repeated": "sent before"}
UNITS: Final = {"traces": "spans", "metrics": "points", "logs": "log records"}


@dataclass(slots=True)
class Outcome:
    """What became of a file: bodies that were acknowledged, their items by signal, and what was not."""

    file: Path
    bodies: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)  # of bodies that had been acknowledged before
    faults: list[str] = field(default_factory=list)

    def row(self) -> Row:
        """Return it for `--json`."""
        counts = {name: dict(getattr(self, name)) for name in COUNTS}
        return {"file": str(self.file), "bodies": self.bodies, **counts, "faults": self.faults}

    def line(self) -> str:
        """Return it for people."""
        told = [
            f"{n:,} {UNITS[signal]}{'' if name == 'accepted' else f' {COUNTS[name]}'}"
            for name in COUNTS
            for signal, n in sorted(getattr(self, name).items())
        ]
        return (
            f"{self.file}: {self.bodies:,} {'body' if self.bodies == 1 else 'bodies'}: {', '.join(told) or 'nothing'}"
        )


class Sender:
    """One connection to a collector's OTLP/HTTP port. Raises UserError when nothing answers there."""

    def __init__(self, url: str, *, token: str | None) -> None:
        self._url = url.rstrip("/")
        parts = urlsplit(self._url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._path = parts.path
        self._connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        self._headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def send(self, file: Path) -> Outcome:
        """Send what the file holds; one that cannot be opened is a fault of its own."""
        outcome = Outcome(file)
        try:
            for found in read_bodies(file):
                if isinstance(found, Bad):
                    outcome.faults.append(_where(file, found.place, found.reason))
                else:
                    self._send(found, outcome)
        except OSError as error:
            outcome.faults.append(f"{file}: it cannot be read: {error.strerror or error}")
        return outcome

    def _send(self, body: Body, outcome: Outcome) -> None:
        signal = body.endpoint.signal
        status, repeated, answer = self._post(body)
        if status != 200:
            reason = f"the collector refused it with {status}: {_said(answer)}"
            outcome.faults.append(_where(outcome.file, body.place, reason))
            return
        partial = body.endpoint.response.FromString(answer).partial_success  # type: ignore[attr-defined]
        rejected = getattr(partial, body.endpoint.rejected)
        outcome.bodies += 1
        counts = {"repeated" if repeated else "accepted": body.items - rejected, "rejected": rejected}
        for name, n in counts.items():
            if n:
                getattr(outcome, name)[signal] += n

    def _post(self, body: Body) -> tuple[int, bool, bytes]:
        """Return the status, whether the body had been taken before, and the answer."""
        packed = gzip.compress(body.data, LEVEL, mtime=0)
        give_up_s = time.monotonic() + BUSY_FOR_S
        while True:
            try:
                answer = self._request(body.endpoint.path, packed)
                said = answer.read()
            except (OSError, HTTPException) as error:
                raise UserError(
                    f"nothing takes OTLP at {self._url} ({error or type(error).__name__}): "
                    "start it with `tailbudget collector`, or name another with --http"
                ) from error
            pause_s = float(answer.headers.get("Retry-After", "5"))
            if answer.status not in RETRY or time.monotonic() + pause_s > give_up_s:
                return answer.status, REPEATED in answer.headers, said
            time.sleep(pause_s)

    def _request(self, path: str, packed: bytes) -> HTTPResponse:
        """Return the answer; a connection that was closed while a long file was read is opened anew."""
        used = self._connection.sock is not None
        try:
            self._connection.request("POST", self._path + path, packed, self._headers)
            return self._connection.getresponse()
        except (OSError, HTTPException):
            self._connection.close()
            if not used:
                raise
        self._connection.request("POST", self._path + path, packed, self._headers)
        return self._connection.getresponse()


def _said(answer: bytes) -> str:
    try:
        return str(Status.FromString(answer).message)
    except DecodeError:  # something else answers there
        return answer[:200].decode(errors="replace")


def _where(file: Path, place: int | None, reason: str) -> str:
    return f"{file}: {reason}" if place is None else f"{file}:{place}: {reason}"


def total(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the sum of the outcomes."""
    found = Outcome(Path("total"))
    for one in outcomes:
        found.bodies += one.bodies
        found.faults += one.faults
        for name in COUNTS:
            getattr(found, name).update(getattr(one, name))
    return found
