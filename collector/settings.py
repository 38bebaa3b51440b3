"""What a collector can be told, checked before anything starts."""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from tailbudget.analytics.sag import SagSettings
from tailbudget.instrument.errors import UserError

from .assemble.prices import Price
from .forward import Address, parse_headers
from .land.database import TEMP_LIMIT
from .receive.privacy import Content
from .scrape.scraper import target
from .seal.retention import Keep
from .seal.sealer import SEAL_AFTER
from .tls import Tls

MIB: Final = 1024 * 1024
MEMORY: Final = re.compile(r"\d+(\.\d+)? ?[KMGT]i?B", re.IGNORECASE)
ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+/?", re.IGNORECASE)
POSITIVE: Final = (
    "max_body_bytes",
    "max_bodies",
    "bodies_bytes",
    "max_spans_per_body",
    "forward_queue_bytes",
    "journal_bytes",
    "queue_bytes",
    "segment_bytes",
    "scrape_every_s",
)


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """Settings of one collector. Raises UserError, naming the setting, for a value that cannot work."""

    data: Path
    host: str = "127.0.0.1"
    http_port: int = 4318
    grpc_port: int = 4317
    api_port: int = 4320
    sag: SagSettings = field(default_factory=SagSettings)
    slo: tuple[Path, ...] = ()  # files of objectives, read again when they change
    content: str = "drop"  # or hash, truncate:N, keep
    memory_limit: str = "256MB"  # of DuckDB: the process then holds 280 MB at full speed, 400 MB with assembly
    temp_limit: str = TEMP_LIMIT  # of what queries spill to the data folder; one that needs more fails alone
    max_body_bytes: int = 64 * MIB  # of one request, unpacked
    max_bodies: int = 512  # being taken at once; further senders are told to come back
    bodies_bytes: int = 256 * MIB  # that they hold together, packed and unpacked
    max_spans_per_body: int = (
        200_000  # or points, or log records; 64 MiB may hold 33 M empty spans, 170 bytes each once parsed
    )
    journal_bytes: int = 1024 * MIB  # acknowledged and not landed; beyond it senders are told to wait
    queue_bytes: int = 18 * MIB  # of what waits decoded, a transaction; beyond it senders are slowed down
    segment_bytes: int = 64 * MIB  # of one journal file
    free_bytes: int = 128 * MIB  # kept free on the disk, so that what is journaled can land
    seal_after: timedelta = SEAL_AFTER  # from the end of an hour until it goes to Parquet
    keep: Keep = field(default_factory=Keep)
    prices: tuple[Price, ...] = ()  # what tokens cost; without any no request has a cost
    allowed_hosts: tuple[str, ...] = ()  # further names by which browsers and clients may call the API
    token: str | None = field(default=None, repr=False)  # that senders and readers must bear
    tls_cert: Path | None = None  # PEM, of the OTLP ports; with tls_key
    tls_key: Path | None = None
    forward: tuple[str, ...] = field(
        default=(), repr=False
    )  # bases of OTLP/HTTP endpoints that accepted bodies are passed on to, unchanged
    forward_headers: tuple[str, ...] = field(default=(), repr=False)  # NAME=VALUE, sent to all of them
    forward_queue_bytes: int = 32 * MIB  # that wait for one of them; beyond it bodies are not passed on
    scrape: tuple[str, ...] = ()  # engines whose /metrics are pulled
    scrape_every_s: float = 5.0
    cors_origins: tuple[str, ...] = ()  # pages of a browser that may send, such as https://app.example; * is any
    peers: tuple[str, ...] = ()  # bases of the OTLP/HTTP endpoints of all collectors of a group
    peer_self: str = ""  # which of them this one is
    store: str = field(default="", repr=False)  # clickhouse://...: a store shared with other collectors
    seal_to: str = ""  # s3://bucket/prefix or a folder: where hours that are over go as Parquet too
    key: str | None = field(default=None, repr=False)  # of the hashes of content and users; else this run's own
    tenant_from_user_id: bool = False  # a span without a tenant has its user's, hashed

    def __post_init__(self) -> None:
        self._check_ports()
        self.content_rule()
        for name in POSITIVE:
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)!r}: expected a positive number")
        for name in ("memory_limit", "temp_limit"):
            if not MEMORY.fullmatch(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)!r}: expected a size such as 128MB or 1GiB")
        self._check_senders()

    def _check_senders(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UserError("tls_cert and tls_key: expected both, or neither")
        if self.tls is not None:
            self.tls.check()
        if repeated := [url for url in self.forward if self.forward.count(url) > 1]:
            raise UserError(f"forward names {repeated[0]!r} twice: name each endpoint once")
        for url in self.scrape:
            target(url)
        self.forward_to, self.forward_fields  # noqa: B018 - they say what is wrong with them
        for origin in self.cors_origins:
            if not ORIGIN.fullmatch(origin):
                raise UserError(f"cors origin {origin!r}: expected one such as https://app.example, or *")

    def _check_ports(self) -> None:
        names: dict[int, str] = {}
        for name in ("http_port", "grpc_port", "api_port"):
            port = getattr(self, name)
            if not 0 < port < 65_536:
                raise UserError(f"{name} is {port!r}: expected a port from 1 to 65535")
            if port in names:
                raise UserError(f"{names[port]} and {name} are both {port}: give one of them another port")
            names[port] = name

    @property
    def forward_to(self) -> list[Address]:
        """The endpoints of `forward`."""
        return [Address.parse(url) for url in self.forward]

    @property
    def forward_fields(self) -> dict[str, str]:
        """The headers of `forward_headers`."""
        return parse_headers(self.forward_headers)

    @property
    def tls(self) -> Tls | None:
        """The certificate of the OTLP ports."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return Tls(self.tls_cert, self.tls_key)

    def content_rule(self) -> Content:
        """Return the rule for content; without a key it has a new one each time."""
        return Content.parse(self.content, key=self.key, tenant_from_user=self.tenant_from_user_id)

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names that a Host header may have; None where any will do, on a wildcard address."""
        if self.host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            return None
        return frozenset({"localhost", "127.0.0.1", "::1", self.host, *self.allowed_hosts})
