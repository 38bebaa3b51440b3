"""The commands and their options; the work is done by the part that each one names."""

import logging
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from tailbudget.instrument.errors import UserError

from . import config

DATA_HELP = "Folder of the database and the journal."
#: Help names the variable of every option that has one.
_option = partial(click.option, show_envvar=True)


def _port(name: str, default: int, what: str, *, variable: str) -> Callable[..., Any]:
    return _option(
        f"--{name}", default=default, type=click.IntRange(1, 65535), envvar=f"TAILBUDGET_{variable}_PORT", help=what
    )


def _address(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none, half an IPv6 address
        good = False
    if not good or any(map(str.isspace, text)):
        raise click.BadParameter(f"{text!r}: expected an address such as http://127.0.0.1:4320", context, option)
    return text


data_option = _option(
    "--data", type=click.Path(path_type=Path), default=".tailbudget", envvar="TAILBUDGET_DATA", help=DATA_HELP
)
host_option = _option("--host", default="127.0.0.1", envvar="TAILBUDGET_HOST", help="Address to listen on.")
sag_option = _option(
    "--sag",
    default="5,3600,300,300,15",
    envvar="TAILBUDGET_SAG",
    help="Sag detector: stream-seconds a bucket, baseline, gap and window in seconds, fewest buckets.",
)
api_option = _option(
    "--api",
    default="http://127.0.0.1:4320",
    envvar="TAILBUDGET_API",
    callback=_address,
    help="Read API of the collector.",
)
some_api_option = _option(
    "--api",
    default=None,
    envvar="TAILBUDGET_API",
    callback=_address,
    show_default="http://127.0.0.1:4320",
    help="Read API of the collector.",
)
#: Without a variable: TAILBUDGET_DATA, set for a collector, would silently turn questions away from its API.
folder_option = _option("--data", type=click.Path(path_type=Path), default=None, help="Read this folder, not the API.")
json_option = _option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")


def _since(default: str) -> Callable[..., Any]:
    return _option("--since", default=default, callback=_length, help="How far back: 90s, 15m, 1h, 7d.")


def _length(context: click.Context, option: click.Parameter, text: str) -> timedelta:
    from tailbudget.analytics.window import length

    try:
        return length(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110})
@click.version_option(package_name="tailbudget")
def cli() -> None:
    """Where every millisecond of an LLM request went, and whether it was within budget."""


@cli.command()
@_option("--demo", is_flag=True, help="Also start a demo service and traffic, with two incidents on a timeline.")
@_option("--model", default="smollm2", envvar="TAILBUDGET_MODEL", help="Model of the runtime: a name or a path.")
@data_option
def up(*, demo: bool, model: str, data: Path) -> None:
    """Start collector, runtime and dashboard in one terminal; Ctrl-C stops all of it.

    Example: tailbudget up --demo
    """
    from .up import up as start

    start(demo=demo, model=model, data=data)


@cli.command()
@data_option
@_port("http", 4318, "Port of OTLP/HTTP.", variable="HTTP")
@_port("api", 4320, "Port of the read API, /metrics, /healthz and /readyz.", variable="API")
@host_option
@sag_option
def collector(*, data: Path, http: int, api: int, host: str, sag: str) -> None:
    """Receive OTLP, land it in DuckDB, assemble requests, answer queries.

    Example: tailbudget collector --data ./telemetry
    """
    from tailbudget.analytics.sag import SagSettings
    from tailbudget.collector import serve
    from tailbudget.collector.settings import CollectorSettings

    _log()
    serve(CollectorSettings(data=data, host=host, http_port=http, api_port=api, sag=SagSettings.parse(sag)))


@cli.command()
@api_option
@_port("port", 8501, "Port of the dashboard.", variable="APP")
@host_option
def app(*, api: str, port: int, host: str) -> None:
    """Serve the dashboard over a collector's read API.

    Example: tailbudget app --api http://127.0.0.1:4320
    """
    from .dashboard import serve

    serve(api=api, host=host, port=port)


@cli.command()
@_option("--model", default="smollm2", envvar="TAILBUDGET_MODEL", help="A fetched model's name, or a GGUF file.")
@_port("port", 8000, "Port of the OpenAI-compatible server.", variable="RUNTIME")
@host_option
@_option("--step-delay", type=float, default=0.0, metavar="MS", help="Slow every engine step by so many ms.")
@_option("--control", is_flag=True, help="Let loopback clients change the step delay while it runs.")
def runtime(*, model: str, port: int, host: str, step_delay: float, control: bool) -> None:
    """Serve a small model on an OpenAI-compatible port, with queue, prefill and decode timed.

    Example: tailbudget runtime --model smollm2
    """
    from tailbudget.gpu_runtime import serve
    from tailbudget.gpu_runtime.settings import RuntimeSettings

    _log()
    serve(RuntimeSettings(model=model, host=host, port=port, step_delay_ms=step_delay, control=control))


@cli.group()
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


@cli.command()
@click.argument("query")
@_option("--json", "form", flag_value="json", help="One JSON array of objects.")
@_option("--csv", "form", flag_value="csv", help="CSV with a header line.")
@_option("--table", "form", flag_value="table", default="table", help="A table for people.")
@some_api_option
@folder_option
def sql(*, query: str, form: str, api: str | None, data: Path | None) -> None:
    """Ask the running collector, or a data folder, one SQL question.

    Example: tailbudget sql "select route, quantile_cont(total_ms, 0.95), count(*) from requests group by all"
    """
    from .sql import answer

    click.echo(answer(query, form=form, api=api, data=data), nl=False)


@cli.command()
@api_option
@_since("1d")
@json_option
def doctor(*, api: str, since: timedelta, as_json: bool) -> None:
    """Say which services send what, what is missing and the line that adds it; fails when no collector answers.

    Example: tailbudget doctor
    """
    from .doctor import examine, report, to_json

    found = examine(api, span=since)
    click.echo(to_json(found) if as_json else report(found, now=datetime.now(UTC)), nl=False)


@cli.command()
@_since("1h")
@_option(
    "--by",
    default="stage,route,model",
    help="Comma-separated: stage, a segment (service, tenant, route, model, provider, version, region, prompt_bucket, "
    "output_bucket, cache_hit, stream, conversation, role, outcome), or the name of any span attribute.",
)
@_option("--measure", default="total_ms", help="What is measured: total_ms, ttft_ms, tpot_ms, decode_ms, ...")
@_option("--route", default=None, help="Only requests of this route.")
@json_option
@some_api_option
@folder_option
def report(
    *, since: timedelta, by: str, measure: str, route: str | None, as_json: bool, api: str | None, data: Path | None
) -> None:
    """Show percentiles of the requests so far back, by stage and by segment, each with its number.

    Example: tailbudget report --since 1h --by stage,model,tenant
    """
    from tailbudget.analytics.window import Window

    from . import report as reports
    from .reading import open_reader

    now = datetime.now(UTC)
    with open_reader(api=api, data=data) as reader:
        names = [name.strip() for name in by.split(",") if name.strip()]
        found = reports.compile_report(reader, Window(now - since, now, route=route), by=names, measure=measure)
    click.echo(reports.to_json(found) if as_json else reports.report(found), nl=False)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    from tailbudget.analytics.reader import QueryError

    try:
        cli.main(list(arguments), prog_name="tailbudget", standalone_mode=False, default_map=config.defaults(cli))
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except UserError as error:
        return _fail(str(error))
    except QueryError as error:
        return _fail(str(error) if not error.hint else f"{error}\n{error.hint}")
    return 0


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _fail(text: str) -> int:
    sys.stderr.write(f"tailbudget: {text}\n")
    return 1
