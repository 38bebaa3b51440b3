"""Exporters as the OTEL_* variables ask for them; without any, OTLP over HTTP to a collector on this machine.

Imported by `init` alone: the SDK and `requests` cost a service that never calls it nothing.
"""

import gzip
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LogRecordProcessor
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult

from .encoding import encode
from .errors import UserError
from .guard import WINDOW_S, Guard
from .histograms import Tallies
from .late_logs import LateLogs
from .losses import CountedQueue
from .posting import Post
from .tallied import MAX_BODY_BYTES, TalliedExporter

DEFAULT_ENDPOINT: Final = "http://127.0.0.1:4318"
#: Requests are promised to be visible 5 s after their last span, of which the collector takes up to 4.
SPAN_DELAY_MS: Final = 1_000
METRIC_INTERVAL_MS: Final = 5_000
#: Of gzip: 60 spans with the gaps of 200 chunks each cost 4 us a span, at the exporter's level 9 it is 150 us; the
#: body is 17 % longer.
GZIP_LEVEL: Final = 1
#: A process that ends waits no longer than this for a collector that does not answer.
ENDING_TIMEOUT_S: Final = 1.0

LOOPBACK: Final = re.compile(r"127(\.\d+){3}")
#: OTLP protocol -> entry point of its exporter; None is ours.
PROTOCOLS: Final[dict[str, str | None]] = {"http/protobuf": None, "grpc": "otlp_proto_grpc"}
LOGGERS: Final = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)

#: Who sets one of these wants histograms as only the SDK makes them.
UNLIKE_TALLIES: Final = (
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    "OTEL_METRICS_EXEMPLAR_FILTER",
)
#: Who sets it wants the SDK's metrics of each queue.
SDK_METRICS: Final = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
DELTA: Final[dict[type, AggregationTemporality]] = dict.fromkeys(
    (Counter, ObservableCounter, Histogram), AggregationTemporality.DELTA
)


class CollectorAbsentError(requests.RequestException):
    """No collector answered while the process was ending. The exporter takes it for final and does not retry."""


class PromptSession(requests.Session):
    """A session that gives up at once when the process is ending and nobody answers; `packs` makes it gzip bodies.

    Where a `body` is given, that is what it sends instead of an empty one.
    """

    def __init__(self, *, packs: bool = False) -> None:
        super().__init__()
        self.packs = packs
        self.body: bytes | None = None
        self.ending = False
        self.failing = False
        self._prepared = requests.PreparedRequest()
        self._prepared_for: object = None
        self._post: Post | None = None

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request as `requests.Session` does; raises CollectorAbsentError instead of waiting at the end."""
        if self.trust_env:
            self._read_environment(args[1] if len(args) > 1 else kwargs["url"])
        if self.ending:
            if self.failing:
                raise CollectorAbsentError("no collector answered, and the process is ending")
            kwargs["timeout"] = ENDING_TIMEOUT_S
        if self.body is not None and not kwargs["data"]:  # else the exporter found something to encode by itself
            kwargs["data"] = self.body
        if self.packs:
            kwargs["data"] = gzip.compress(kwargs["data"], GZIP_LEVEL)
            kwargs["headers"] = {**(kwargs.get("headers") or {}), "Content-Encoding": "gzip"}
        try:
            response = self._answer(*args, **kwargs)
        except requests.RequestException as error:
            self.failing = True
            if self.ending:
                raise CollectorAbsentError(str(error)) from error
            raise
        self.failing = False
        return response

    def _answer(self, method: str, url: str, *, data: bytes, headers: Any = None, **options: Any) -> requests.Response:
        """Send as `requests.Session.request` does, but prepare once what stays the same: it is half of each request."""
        asked = (method, url, tuple((headers or {}).items()))
        if asked != self._prepared_for:
            self._prepared = self.prepare_request(requests.Request(method, url, headers=headers, data=b"?"))
            self._prepared_for = asked
            self._drop_post()
            self._post = Post.of(self._prepared, self.proxies)
        if self._post and self._post.can(options.get("timeout")):
            answer = self._post.send(data, options.get("timeout"))
            if not answer.is_redirect or options.get("allow_redirects") is False:
                return answer
            self._drop_post()  # and ask again, as `requests` would
        prepared = self._prepared.copy()
        prepared.body = data
        prepared.headers["Content-Length"] = str(len(data))
        if options.get("verify") in (None, True):
            options["verify"] = self.verify  # which the environment may name
        return self.send(prepared, **{name: value for name, value in options.items() if value is not None})

    def _drop_post(self) -> None:
        if self._post:
            self._post.close()
        self._post = None

    def close(self) -> None:
        """Close all connections."""
        if self._post:
            self._post.close()
        super().close()

    def after_fork(self) -> None:
        """Use connections of this process's own: a thread that is not here may hold the lock of the parent's."""
        if self._post:
            self._post.close()
        for prefix in ("http://", "https://"):
            self.mount(prefix, requests.adapters.HTTPAdapter())

    def _read_environment(self, url: str) -> None:
        """Take proxies, certificates and .netrc as `requests` does, but once: they are a third of each request."""
        self.auth = self.auth or requests.utils.get_netrc_auth(url)
        found = self.merge_environment_settings(url, {}, None, None, None)
        self.proxies, self.verify, self.cert = found["proxies"], found["verify"], found["cert"]
        self.trust_env = False


class Encoded(Sequence[ReadableSpan]):
    """Spans of which nothing is left to encode: none comes when they are iterated, though they can be counted."""

    def __init__(self, spans: Sequence[ReadableSpan]) -> None:
        self._spans = spans

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: Any) -> Any:
        return self._spans[index]

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(())


class SpanBytesExporter(OTLPSpanExporter):
    """OpenTelemetry's exporter, with what is sent encoded by us: its encoder was a quarter of what telemetry costs.

    One batch at a time, as a batch processor exports them.
    """

    def __init__(self, *, session: PromptSession, **options: Any) -> None:
        super().__init__(session=session, **options)
        self._prompt_session = session
        self._encodes = _packed_here("traces")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export as the exporter does; it encodes too what cannot be encoded here, or is too long to be sent."""
        body = None
        if self._encodes:
            with Guard("span encoding"):
                body = encode(spans)
        if body is None or len(body) > MAX_BODY_BYTES:
            return super().export(spans)
        self._prompt_session.body = body
        try:
            return super().export(Encoded(spans))
        finally:
            self._prompt_session.body = None


class OncePerWindow(logging.Filter):
    """Lets one record a window through: a collector that is away would fill the log of every service."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_s = -WINDOW_S

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        """Say whether this record may be logged."""
        now_s = time.monotonic()
        if now_s - self._passed_s < WINDOW_S:
            return False
        self._passed_s = now_s
        return True


_once_per_window = OncePerWindow()


class Exports:
    """What sends telemetry; raises UserError when a variable asks for an exporter that is not installed."""

    def __init__(self, endpoint: str | None) -> None:
        self._endpoint = endpoint
        self._prompt: list[tuple[PromptSession, OTLPSpanExporter | OTLPMetricExporter | OTLPLogExporter]] = []
        self._queues: list[CountedQueue | LateLogs] = []
        #: What counts our histograms, where the SDK need not.
        self.tallies: Tallies | None = None
        for name in LOGGERS:
            logging.getLogger(name).addFilter(_once_per_window)

    def span_processors(self) -> list[SpanProcessor]:
        """Return one batch processor an exporter."""
        delay_ms = None if "OTEL_BSP_SCHEDULE_DELAY" in os.environ else SPAN_DELAY_MS
        processors: list[CountedQueue] = []
        for kind in _asked_for("traces"):
            exporter = self._otlp(SpanBytesExporter, "traces") if kind is None else kind()
            processors.append(CountedQueue(exporter, delay_ms=delay_ms))
        self._queues += processors
        return list(processors)

    def log_processors(self) -> list[LogRecordProcessor]:
        """Return one batch processor an exporter, made late where no variable says how: to refuse it is done here."""
        delay_ms = None if "OTEL_BLRP_SCHEDULE_DELAY" in os.environ else SPAN_DELAY_MS
        said = SDK_METRICS in os.environ or any(name.startswith("OTEL_BLRP_") for name in os.environ)
        processors: list[LogRecordProcessor] = []
        for kind in _asked_for("logs"):
            exporter = self._otlp(OTLPLogExporter, "logs") if kind is None else kind()
            if said:
                processors.append(BatchLogRecordProcessor(exporter, schedule_delay_millis=delay_ms))
            else:
                self._queues.append(late := LateLogs(exporter, delay_ms=delay_ms))
                processors.append(late)
        return processors

    def metric_readers(self, *, alone: bool) -> list[MetricReader]:
        """Return one reader an exporter; `alone` says that nobody else reads the metrics."""
        interval_ms = None if "OTEL_METRIC_EXPORT_INTERVAL" in os.environ else METRIC_INTERVAL_MS
        readers: list[MetricReader] = []
        for kind in _asked_for("metrics"):
            if kind is not None and issubclass(kind, MetricReader):
                readers.append(kind())
                continue
            exporter = self._metric_exporter(alone=alone and not readers) if kind is None else kind()
            readers.append(PeriodicExportingMetricReader(exporter, export_interval_millis=interval_ms))
        return readers

    def _metric_exporter(self, *, alone: bool) -> Any:
        if not alone or len(_asked_for("metrics")) > 1 or any(os.environ.get(name) for name in UNLIKE_TALLIES):
            return self._otlp(OTLPMetricExporter, "metrics", **_temporality())
        self.tallies = Tallies()
        encodes = _packed_here("metrics") and SDK_METRICS not in os.environ  # which count the points
        return self._otlp(TalliedExporter, "metrics", tallies=self.tallies, encodes=encodes, **_temporality())

    def after_fork(self) -> None:
        """Use connections of this process's own: the parent goes on with those that it opened."""
        if self.tallies is not None:
            self.tallies.after_fork()
        for queue in self._queues:
            queue.after_fork()
        for session, _ in self._prompt:
            session.after_fork()

    def hurry(self) -> None:
        """Make whatever is sent from now on fail at once where no collector answers."""
        for session, exporter in self._prompt:
            session.ending = True
            if session.failing:
                exporter.shutdown()  # ends a wait between two attempts

    def _otlp(self, kind: Any, signal: str, **options: Any) -> Any:
        endpoint = _endpoint(self._endpoint, signal)
        asked = _asked_compression(signal)
        session = PromptSession(packs=asked == "gzip" or (not asked and not _stays_here(endpoint, signal)))
        compression = None if asked not in ("", "gzip") else Compression.NoCompression  # None: as the variables say
        exporter = kind(endpoint=endpoint, compression=compression, session=session, **options)
        self._prompt.append((session, exporter))
        return exporter


def _endpoint(endpoint: str | None, signal: str) -> str | None:
    """Return the full URL, or None where the exporter finds it in the environment."""
    if endpoint is None and _said(signal, "ENDPOINT"):
        return None
    return f"{(endpoint or DEFAULT_ENDPOINT).rstrip('/')}/v1/{signal}"


def _asked_compression(signal: str) -> str:
    return _said(signal, "COMPRESSION").strip().lower()


def _packed_here(signal: str) -> bool:
    """Say whether the session packs what is sent; otherwise that is the exporter's work, before it has our body."""
    return _asked_compression(signal) in ("", "gzip", "none")


def _said(signal: str, what: str) -> str:
    """Return what a variable says of this signal, else of all; "" where none is set."""
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}")
    return next((said for name in names if (said := os.environ.get(name))), "")


def _stays_here(endpoint: str | None, signal: str) -> bool:
    """Say whether what is sent stays on this machine: packing it would cost more than half of what sending does."""
    host = urlsplit(endpoint or _said(signal, "ENDPOINT")).hostname or ""
    return host in ("localhost", "::1") or LOOPBACK.fullmatch(host) is not None


def _temporality() -> dict[str, Any]:
    if os.environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"):
        return {}
    return {"preferred_temporality": DELTA}


def _asked_for(signal: str) -> list[Any]:
    """Return the exporter classes that OTEL_<SIGNAL>_EXPORTER names; None stands for OTLP over HTTP."""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    names = [name.strip() for name in (os.environ.get(variable) or "otlp").split(",")]
    return [_class_of(name, signal, variable) for name in names if name != "none"]


def _class_of(name: str, signal: str, variable: str) -> Any:
    if name == "otlp":
        variables = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        variable = next((v for v in variables if os.environ.get(v)), variable)
        protocol = os.environ.get(variable, "http/protobuf") if variable in variables else "http/protobuf"
        if protocol not in PROTOCOLS:
            raise UserError(
                f"{variable} is {protocol!r}: expected one of {', '.join(PROTOCOLS)}; unset it for the first"
            )
        entry = PROTOCOLS[protocol]
        if entry is None:
            return None
        name = entry
    elif name == "otlp_proto_http":
        return None
    group = f"opentelemetry_{signal}_exporter"
    found = next(iter(entry_points(group=group, name=name)), None)
    if found is None:
        known = ", ".join(sorted({e.name for e in entry_points(group=group)} | {"otlp", "none"}))
        raise UserError(
            f"{variable} is {name!r}, and no installed package has such an exporter: expected one of {known}"
        )
    return found.load()
