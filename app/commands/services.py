"""Commands that start something and keep it running, and those that fetch what it needs."""

from datetime import timedelta
from pathlib import Path

import click

from ..options import (
    api_option,
    data_option,
    disk_option,
    host_option,
    keep_option,
    log_to_stderr,
    option,
    port_option,
    sag_option,
)


@click.command()
@option("--demo", is_flag=True, help="Also start a demo service and traffic, with two incidents on a timeline.")
@option("--model", default="smollm2", envvar="TAILBUDGET_MODEL", help="Model of the runtime: a name or a path.")
@data_option
def up(*, demo: bool, model: str, data: Path) -> None:
    """Start collector, runtime and dashboard in one terminal; Ctrl-C stops all of it.

    Example: tailbudget up --demo
    """
    from ..up import up as start

    start(demo=demo, model=model, data=data)


@click.command()
@data_option
@port_option("http", 4318, "Port of OTLP/HTTP.", variable="HTTP")
@port_option("api", 4320, "Port of the read API, /metrics, /healthz and /readyz.", variable="API")
@host_option
@sag_option
@keep_option("seal-after", "1h", "How long after its end an hour of spans goes to Parquet.")
@keep_option("keep-spans", "7d", "How long spans, metrics and logs are kept.")
@keep_option("keep-requests", "35d", "How long requests, calls, stages and violations are kept.")
@keep_option("keep-rollups", "400d", "How long roll-ups and alerts are kept.")
@disk_option
def collector(
    *,
    data: Path,
    http: int,
    api: int,
    host: str,
    sag: str,
    seal_after: timedelta,
    keep_spans: timedelta,
    keep_requests: timedelta,
    keep_rollups: timedelta,
    max_disk: int,
) -> None:
    """Receive OTLP, land it in DuckDB, assemble requests, answer queries.

    Example: tailbudget collector --data ./telemetry
    """
    from tailbudget.analytics.sag import SagSettings
    from tailbudget.collector import serve
    from tailbudget.collector.seal.retention import Keep
    from tailbudget.collector.settings import CollectorSettings

    log_to_stderr()
    serve(
        CollectorSettings(
            data=data,
            host=host,
            http_port=http,
            api_port=api,
            sag=SagSettings.parse(sag),
            seal_after=seal_after,
            keep=Keep(spans=keep_spans, requests=keep_requests, rollups=keep_rollups, max_disk_bytes=max_disk),
        )
    )


@click.command()
@api_option
@port_option("port", 8501, "Port of the dashboard.", variable="APP")
@host_option
def app(*, api: str, port: int, host: str) -> None:
    """Serve the dashboard over a collector's read API.

    Example: tailbudget app --api http://127.0.0.1:4320
    """
    from ..dashboard import serve

    serve(api=api, host=host, port=port)


@click.command()
@option("--model", default="smollm2", envvar="TAILBUDGET_MODEL", help="A fetched model's name, or a GGUF file.")
@port_option("port", 8000, "Port of the OpenAI-compatible server.", variable="RUNTIME")
@host_option
@option("--step-delay", type=float, default=0.0, metavar="MS", help="Slow every engine step by so many ms.")
@option("--control", is_flag=True, help="Let loopback clients change the step delay while it runs.")
def runtime(*, model: str, port: int, host: str, step_delay: float, control: bool) -> None:
    """Serve a small model on an OpenAI-compatible port, with queue, prefill and decode timed.

    Example: tailbudget runtime --model smollm2
    """
    from tailbudget.gpu_runtime import serve
    from tailbudget.gpu_runtime.settings import RuntimeSettings

    log_to_stderr()
    serve(RuntimeSettings(model=model, host=host, port=port, step_delay_ms=step_delay, control=control))


@click.group()
def model() -> None:
    """Models of the bundled runtime."""


@model.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Download a model once and check it.

    Example: tailbudget model fetch smollm2
    """
    from tailbudget.gpu_runtime.models import fetch as download

    click.echo(download(name))


COMMANDS = (up, collector, app, runtime, model)
