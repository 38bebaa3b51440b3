"""What a collector can be told, checked before anything starts."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

from tailbudget.analytics.sag import SagSettings
from tailbudget.instrument.errors import UserError

from .land.database import TEMP_LIMIT
from .receive.content import Content

MIB: Final = 1024 * 1024
MEMORY: Final = re.compile(r"\d+(\.\d+)? ?[KMGT]i?B", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """Settings of one collector. Raises UserError, naming the setting, for a value that cannot work."""

    data: Path
    host: str = "127.0.0.1"
    http_port: int = 4318
    api_port: int = 4320
    sag: SagSettings = field(default_factory=SagSettings)
    content: Content = "drop"
    memory_limit: str = "256MB"  # of DuckDB: the process then holds 340 MiB at full speed, with 128 MB 290
    temp_limit: str = TEMP_LIMIT  # of what queries spill to the data folder; one that needs more fails alone
    max_body_bytes: int = 64 * MIB  # of one request, unpacked
    max_spans_per_body: int = 200_000  # or points; 64 MiB may hold 33 M empty spans, 170 bytes each once parsed
    journal_bytes: int = 1024 * MIB  # acknowledged and not landed; beyond it senders are told to wait
    queue_bytes: int = 32 * MIB  # of what waits decoded, two transactions; beyond it senders are slowed down
    segment_bytes: int = 64 * MIB  # of one journal file
    free_bytes: int = 128 * MIB  # kept free on the disk, so that what is journaled can land
    allowed_hosts: tuple[str, ...] = ()  # further names by which browsers and clients may call the API

    def __post_init__(self) -> None:
        for name in ("http_port", "api_port"):
            port = getattr(self, name)
            if not 0 < port < 65_536:
                raise UserError(f"{name} is {port!r}: expected a port from 1 to 65535")
        if self.http_port == self.api_port:
            raise UserError(f"http_port and api_port are both {self.http_port}: give one of them another port")
        if self.content not in get_args(Content):
            raise UserError(f"content is {self.content!r}: expected one of {', '.join(get_args(Content))}")
        for name in ("max_body_bytes", "journal_bytes", "queue_bytes", "segment_bytes"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)!r}: expected a positive number of bytes")
        if self.max_spans_per_body <= 0:
            raise UserError(f"max_spans_per_body is {self.max_spans_per_body!r}: expected a positive number of spans")
        for name in ("memory_limit", "temp_limit"):
            if not MEMORY.fullmatch(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)!r}: expected a size such as 128MB or 1GiB")

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names that a Host header may have; None where any will do, on a wildcard address."""
        if self.host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            return None
        return frozenset({"localhost", "127.0.0.1", "::1", self.host, *self.allowed_hosts})
