"""Options that several commands share, and how an option's text is checked."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from .elsewhere import reader_options

#: Guards that `up --demo --guard` can try; `app/demo/trials.py` has a workload for each.
GUARDS = ("hedge", "breaker", "limit", "queue", "shed", "cache", "embeddings", "semantic", "fan-out")
UNITS = {"M": 10**6, "G": 10**9, "T": 10**12, "MI": 2**20, "GI": 2**30, "TI": 2**40}
#: What `--data` of a question names: a folder, or folders and addresses of APIs.
Sources = Path | Sequence[Path | str] | None
DATA_HELP = "Folder of the database and the journal."
#: Help names the variable of every option that has one.
option = partial(click.option, show_envvar=True)


def port_option(name: str, default: int, what: str, *, variable: str) -> Callable[..., Any]:
    """Return the option of a port that `TAILBUDGET_<variable>_PORT` sets too."""
    setting = name if name == "port" else f"{name}_port"
    return option(
        f"--{name}",
        setting,
        default=default,
        type=click.IntRange(1, 65535),
        envvar=f"TAILBUDGET_{variable}_PORT",
        help=what,
    )


def address(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none, half an IPv6 address
        good = False
    if not good or any(map(str.isspace, text)):
        raise click.BadParameter(f"{text!r}: expected an address such as http://127.0.0.1:4320", context, parameter)
    return text


data_option = option(
    "--data", type=click.Path(path_type=Path), default=".tailbudget", envvar="TAILBUDGET_DATA", help=DATA_HELP
)
host_option = option("--host", default="127.0.0.1", envvar="TAILBUDGET_HOST", help="Address to listen on.")
sag_option = option(
    "--sag",
    default="5,3600,300,300,15",
    envvar="TAILBUDGET_SAG",
    help="Sag detector: stream-seconds a bucket, baseline, gap and window in seconds, fewest buckets.",
)
token_option = option(
    "--token-file",
    type=click.Path(path_type=Path),
    default=None,
    envvar="TAILBUDGET_TOKEN_FILE",
    help="File, outside of --data, with the token that senders and readers must bear; else TAILBUDGET_TOKEN.",
)
content_option = option(
    "--content",
    default="drop",
    envvar="TAILBUDGET_CONTENT",
    help="Prompts, answers, tool arguments, documents: drop, hash, truncate:N characters, or keep (redacted).",
)
key_option = option(
    "--key-file",
    type=click.Path(path_type=Path),
    default=None,
    envvar="TAILBUDGET_KEY_FILE",
    help="File, outside of --data, with the key of hashes; without one each start makes its own.",
)
user_option = option(
    "--tenant-from-user-id",
    is_flag=True,
    envvar="TAILBUDGET_TENANT_FROM_USER_ID",
    help="Store users' ids hashed, and take them for the tenant where none is sent.",
)
api_option = option(
    "--api",
    default="http://127.0.0.1:4320",
    envvar="TAILBUDGET_API",
    callback=address,
    help="Read API of the collector.",
)
http_option = option(
    "--http",
    default=lambda: f"http://127.0.0.1:{os.environ.get('TAILBUDGET_HTTP_PORT') or 4318}",
    callback=address,
    show_default="http://127.0.0.1:4318, or the port of TAILBUDGET_HTTP_PORT",
    help="OTLP/HTTP port of the collector.",
)
some_api_option = option(
    "--api",
    default=None,
    envvar="TAILBUDGET_API",
    callback=address,
    show_default="http://127.0.0.1:4320",
    help="Read API of the collector.",
)
#: Without a variable: TAILBUDGET_DATA, set for a collector, would silently turn questions away from its API.
one_folder_option = option(
    "--data", type=click.Path(path_type=Path), default=None, help="Read this folder, not the API."
)


def _sources(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> list[Path | str] | None:
    found = [address(context, parameter, text) or "" if "://" in text else Path(text) for text in texts]
    return found or None


_folders = option(
    "--data",
    multiple=True,
    callback=_sources,
    help="Read this folder, not the API; several times: folders and addresses of APIs, as one.",
)


def folder_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --data, and the options of other engines."""
    return _folders(reader_options(command))


def _step(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        base_ms, stream_ms, prompt_token_ms = map(float, text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: expected three numbers, as in 12,0.4,0.05", context, parameter) from error
    return base_ms, stream_ms, prompt_token_ms


def step_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `step` and `instance`: how long a step takes, as given or as an engine told."""
    given = "Milliseconds of a step: its base, more a decoding stream, more a prompt token."
    told = "Without --step: the engine whose samples say it."
    instance = option("--instance", default=None, metavar="HOST:PORT", help=told)
    step = option("--step", default=None, callback=_step, metavar="BASE,STREAM,PROMPT", help=given)
    return step(instance(command))


json_option = option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")


def since_option(default: str) -> Callable[..., Any]:
    """Return the option that gives a length of time back from now, as a timedelta."""
    return length_option("--since", "since", default, "How far back: 90s, 15m, 1h, 7d.")


def length_option(name: str, parameter: str, default: str, help_text: str) -> Callable[..., Any]:
    """Return an option that is a length of time, given as a timedelta."""
    return option(name, parameter, default=default, callback=_length, help=help_text)


def _length(context: click.Context, parameter: click.Parameter, text: str) -> timedelta:
    from tailbudget.analytics.window import length

    try:
        return length(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def keep_option(name: str, default: str, what: str) -> Callable[..., Any]:
    """Return the option of a length of time that `TAILBUDGET_<NAME>` sets too, as a timedelta."""
    variable = f"TAILBUDGET_{name.replace('-', '_').upper()}"
    return option(f"--{name}", default=default, envvar=variable, callback=_length, help=what)


def _bytes(context: click.Context, parameter: click.Parameter, text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MGT]i?)B", text.strip(), re.IGNORECASE)
    if not found:
        raise click.BadParameter(f"{text!r}: expected a size such as 500MB or 20GiB", context, parameter)
    return round(float(found[1]) * UNITS[found[2].upper()])


def size_option(name: str, parameter: str, default: str, what: str) -> Callable[..., Any]:
    """Return the option of a size that `TAILBUDGET_<NAME>` sets too, as a number of bytes."""
    variable = f"TAILBUDGET_{name.replace('-', '_').upper()}"
    return option(f"--{name}", parameter, default=default, metavar="SIZE", envvar=variable, callback=_bytes, help=what)


def count_option(name: str, parameter: str, default: int, what: str) -> Callable[..., Any]:
    """Return the option of a number above zero that `TAILBUDGET_<NAME>` sets too."""
    variable = f"TAILBUDGET_{name.replace('-', '_').upper()}"
    return option(
        f"--{name}", parameter, default=default, type=click.IntRange(min=1), metavar="N", envvar=variable, help=what
    )


def log_to_stderr() -> None:
    """Show what a service logs."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
