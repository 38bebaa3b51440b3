"""The command that runs a collector: each option is named after the setting that it sets."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click

from ..options import (
    content_option,
    count_option,
    data_option,
    host_option,
    keep_option,
    key_option,
    log_to_stderr,
    option,
    port_option,
    sag_option,
    size_option,
    token_option,
    user_option,
)

FILE: Final = click.Path(path_type=Path)
SLO: Final = Path("slo.yaml")


@click.command()
@data_option
@port_option("http", 4318, "Port of OTLP/HTTP.", variable="HTTP")
@port_option("grpc", 4317, "Port of OTLP/gRPC.", variable="GRPC")
@port_option("api", 4320, "Port of the read API, /metrics, /healthz and /readyz.", variable="API")
@host_option
@token_option
@option("--tls-cert", type=FILE, default=None, envvar="TAILBUDGET_TLS_CERT", help="Certificate of the OTLP ports, PEM.")
@option("--tls-key", type=FILE, default=None, envvar="TAILBUDGET_TLS_KEY", help="Its key, PEM, without a password.")
@option(
    "--forward",
    multiple=True,
    metavar="URL",
    envvar="TAILBUDGET_FORWARD",
    help="Also pass accepted bodies on to this OTLP/HTTP endpoint (http://tempo:4318), unchanged: with the prompts and "
    "answers that they carry, whatever is kept here; repeatable. User and password in the URL become basic "
    "authentication.",
)
@option(
    "--forward-header",
    "forward_headers",
    multiple=True,
    metavar="NAME=VALUE",
    envvar="TAILBUDGET_FORWARD_HEADER",
    help="Header sent to every --forward; repeatable.",
)
@option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    envvar="TAILBUDGET_CORS_ORIGIN",
    help="Pages of this origin may send from a browser (https://app.example, or *); repeatable.",
)
@option(
    "--scrape",
    multiple=True,
    metavar="URL",
    envvar="TAILBUDGET_SCRAPE",
    help="Pull the /metrics of this vLLM, SGLang or tailbudget runtime (http://127.0.0.1:8000) every 5 s; repeatable.",
)
@option(
    "--peer",
    "peers",
    multiple=True,
    metavar="URL",
    envvar="TAILBUDGET_PEERS",
    help="OTLP/HTTP address of a collector of a group, this one's too (http://c1:4318): traces are shared out "
    "among them by id, so that each is assembled by one; repeatable, needs --self.",
)
@option("--self", "peer_self", default="", metavar="URL", envvar="TAILBUDGET_SELF", help="Which --peer this one is.")
@option(
    "--store",
    default="",
    metavar="URL",
    envvar="TAILBUDGET_STORE",
    help="Keep all rows in this ClickHouse too, which many collectors share: clickhouse://user:password@host:8123/db.",
)
@option(
    "--seal-to",
    default="",
    metavar="URL",
    envvar="TAILBUDGET_SEAL_TO",
    help="Also write hours that are over as Parquet below s3://bucket/prefix, or a folder, for Spark and others.",
)
@content_option
@key_option
@user_option
@sag_option
@keep_option("seal-after", "1h", "How long after its end an hour of spans goes to Parquet.")
@keep_option("keep-spans", "7d", "How long spans, metrics and logs are kept.")
@keep_option("keep-requests", "35d", "How long requests, calls, stages and violations are kept.")
@keep_option("keep-rollups", "400d", "How long roll-ups and alerts are kept.")
@size_option("max-disk", "max_disk", "20GB", "Size of the data folder beyond which the oldest spans end.")
@size_option("max-body", "max_body_bytes", "64MiB", "Largest request body, unpacked; beyond it senders get 413.")
@count_option("max-items", "max_spans_per_body", 200_000, "Most spans, points or log records of one body.")
@count_option("max-bodies", "max_bodies", 512, "Bodies taken at once; further senders get 503.")
@size_option("bodies-memory", "bodies_bytes", "256MiB", "What bodies that are being taken hold together.")
@size_option("max-journal", "journal_bytes", "1GiB", "Acknowledged and not landed; beyond it senders get 503.")
@size_option("keep-free", "free_bytes", "128MiB", "Left free on the disk, so that the journal can land.")
@option("--memory", "memory_limit", default="256MB", metavar="SIZE", envvar="TAILBUDGET_MEMORY", help="For DuckDB.")
@option(
    "--slo",
    multiple=True,
    type=FILE,
    envvar="TAILBUDGET_SLO",
    help="File of objectives, read again when it changes; repeatable. Without one ./slo.yaml, where there is one.",
)
@option(
    "--prices",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="CSV file of prices: provider, model (* for any), then dollars a million input, output and cached tokens, and "
    "where wanted a GPU-hour and a kWh.",
)
def collector(
    *,
    token_file: Path | None,
    key_file: Path | None,
    sag: str,
    prices: Path | None,
    slo: tuple[Path, ...],
    keep_spans: timedelta,
    keep_requests: timedelta,
    keep_rollups: timedelta,
    max_disk: int,
    **settings: Any,
) -> None:
    """Receive OTLP, land it in DuckDB, assemble requests, answer queries.

    Example: tailbudget collector --data ./telemetry
    """
    from tailbudget.analytics.sag import SagSettings
    from tailbudget.collector import serve
    from tailbudget.collector.assemble.prices import read_prices
    from tailbudget.collector.receive.privacy import read_key
    from tailbudget.collector.seal.retention import Keep
    from tailbudget.collector.settings import CollectorSettings
    from tailbudget.collector.token import read_token

    log_to_stderr()
    data = settings["data"]
    token = read_token(token_file, data=data) if token_file else os.environ.get("TAILBUDGET_TOKEN", "").strip() or None
    key = read_key(key_file, data=data) if key_file else None
    paid = read_prices(prices) if prices else ()
    objectives = slo or ((SLO,) if SLO.exists() else ())
    keep = Keep(spans=keep_spans, requests=keep_requests, rollups=keep_rollups, max_disk_bytes=max_disk)
    detector = SagSettings.parse(sag)
    serve(CollectorSettings(token=token, key=key, sag=detector, prices=paid, slo=objectives, keep=keep, **settings))


COMMANDS = (collector,)
