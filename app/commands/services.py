"""Commands that start something and keep it running, and those that fetch what it needs."""

import os
from pathlib import Path
from typing import Any

import click

from ..options import (
    GUARDS,
    address,
    api_option,
    data_option,
    host_option,
    log_to_stderr,
    option,
    port_option,
    token_option,
)

#: The runtime's own list is behind imports that take a second.
DTYPES = ("auto", "float32", "bfloat16", "float16", "int8", "int4")


@click.command()
@option("--demo", is_flag=True, help="Also start a demo service and traffic, with two incidents on a timeline.")
@option("--model", default="smollm2", envvar="TAILBUDGET_MODEL", help="Model of the runtime: a name or a path.")
@option("--guard", type=click.Choice(GUARDS), help="Instead of the traffic: 200 requests without and with this guard.")
@data_option
def up(*, demo: bool, model: str, guard: str | None, data: Path) -> None:
    """Start collector, runtime and dashboard in one terminal; Ctrl-C stops all of it.

    Example: tailbudget up --demo
    """
    from tailbudget.instrument.errors import UserError

    from ..up import up as start

    if guard and not demo:
        raise UserError(f"--guard {guard} needs --demo: its trial is part of the demo")
    start(demo=demo, model=model, data=data, guard=guard)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(*, command: tuple[str, ...]) -> None:
    """Run a Python service, and all that it starts, with telemetry and without a change.

    Example: tailbudget run uvicorn service:app
    """
    from tailbudget.instrument.run import main

    main(command)


@click.command()
@api_option
@port_option("port", 8501, "Port of the dashboard.", variable="APP")
@host_option
@token_option
@option("--no-auth", is_flag=True, help="Listen beyond this machine without asking for a token.")
def app(*, api: str, port: int, host: str, token_file: Path | None, no_auth: bool) -> None:
    """Serve the dashboard over a collector's read API; beyond loopback its pages ask for the token.

    Example: tailbudget app --api http://127.0.0.1:4320
    """
    from tailbudget.collector.token import read_token

    from ..dashboard import serve

    token = read_token(token_file) if token_file else os.environ.get("TAILBUDGET_TOKEN", "").strip()
    if token:
        os.environ["TAILBUDGET_TOKEN"] = token  # what the collector is asked with
    serve(api=api, host=host, port=port, token=token, no_auth=no_auth)


@click.command()
@option("--model", default="smollm2", envvar="TAILBUDGET_MODEL", help="A fetched model, a GGUF file, or a folder.")
@port_option("port", 8000, "Port of the OpenAI-compatible server.", variable="RUNTIME")
@host_option
@option("--dtype", type=click.Choice(DTYPES), default="auto", help="How weights are held.")
@option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="auto: a GPU where there is one.")
@option("--served-name", default="", metavar="NAME", help="What requests call the model; else the file's name.")
@option("--max-context", type=int, default=4096, metavar="TOKENS", help="Longest prompt and answer together.")
@option("--max-running", type=int, default=8, metavar="N", help="Requests that are computed together.")
@option("--max-waiting", type=int, default=64, metavar="N", help="Requests that queue; more are answered 503.")
@option("--prefill-chunk", type=int, default=128, metavar="TOKENS", help="Prompt tokens a step.")
@option("--kv-pages", type=int, default=0, metavar="N", help="KV cache in pages of 16 tokens; 0 holds everything.")
@option("--prefix-cache/--no-prefix-cache", default=True, help="Share what prompts that begin alike computed.")
@option("--speculate", type=int, default=0, metavar="N", help="Guess up to N tokens a step from the text so far.")
@option("--batch-delay", type=float, default=0.0, metavar="MS", help="What an idle engine waits.")
@option("--drain", type=float, default=5.0, metavar="S", help="What running requests get to end after a signal.")
@option("--api-keys", default="", metavar="FILE", help="Keys, quotas and weights of tenants, in TOML.")
@option("--step-delay", type=float, default=0.0, metavar="MS", help="Slow every step by so many ms.")
@option("--control", is_flag=True, help="Let loopback clients change the step delay while it runs.")
def runtime(*, batch_delay: float, step_delay: float, drain: float, **settings: Any) -> None:
    """Serve a small model on an OpenAI-compatible port, with queue, prefill and decode timed.

    Example: tailbudget runtime --model smollm2
    """
    from tailbudget.gpu_runtime import serve
    from tailbudget.gpu_runtime.settings import RuntimeSettings

    log_to_stderr()
    serve(RuntimeSettings(batch_delay_ms=batch_delay, step_delay_ms=step_delay, drain_s=drain, **settings))


@click.command()
@option(
    "--endpoint",
    default=None,
    envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
    callback=address,
    show_default="http://127.0.0.1:4318",
    help="OTLP/HTTP address of the collector.",
)
@option(
    "--interval",
    type=click.FloatRange(0.02, 60),
    default=0.1,
    envvar="TAILBUDGET_GPU_INTERVAL",
    metavar="S",
    help="Seconds between samples of clocks and power; use and memory come every 2.5, the rest every 10 of them.",
)
def gpu(*, endpoint: str | None, interval: float) -> None:
    """Sample the GPUs of this host beside any server, into the collector's table gpu; Ctrl-C ends it.

    Example: tailbudget gpu --endpoint http://collector:4318
    """
    from tailbudget.gpu_runtime.beside import sample

    log_to_stderr()
    sample(endpoint=endpoint, interval_s=interval)


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


COMMANDS = (up, run, app, runtime, gpu, model)
