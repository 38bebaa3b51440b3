"""`tailbudget run CMD ...`: a Python service, and every Python process that it starts, with telemetry and no change."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import UserError

#: The folder whose `sitecustomize` every Python below imports at its start.
AUTOLOAD = str(Path(__file__).resolve().parent / "autoload")

USAGE = """\
Usage: tailbudget run [--] CMD [ARGS]...

  Run a Python service with telemetry, its code unchanged: requests, model calls, streams, network phases and the
  libraries that it uses. Sub-processes are covered too: workers of gunicorn, uvicorn and celery.

  Example: OTEL_SERVICE_NAME=assistant tailbudget run uvicorn service:app

  Settings are OTEL_* variables; OTEL_SERVICE_NAME names the service, OTEL_EXPORTER_OTLP_ENDPOINT the collector
  (default http://127.0.0.1:4318), OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=flask,httpx leaves libraries alone, and
  TAILBUDGET_PROPAGATE_TO=*.example.internal,10.0.0.0/8 names hosts that may see the tenant.

Options:
  -h, --help  Show this message and exit.
"""


def main(arguments: Sequence[str]) -> None:
    """Replace this process by the command; returns only after `--help`. Raises UserError for a command that is none."""
    command = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if command[:1] in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return
    if not command:
        raise UserError("run was given no command: expected one, such as `tailbudget run uvicorn service:app`")
    if command[0].startswith("-"):
        raise UserError(
            f"run was given the option {command[0]!r}: expected a command first; see `tailbudget run --help`"
        )
    found = executable(command[0])
    os.execve(found, [found, *command[1:]], environment(os.environ))  # noqa: S606 - this is the user's own command


def executable(name: str) -> str:
    """Return the path of a command, looked for beside the Python that runs this before PATH."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=beside) or shutil.which(name)
    if found is None:
        raise UserError(f"run was given {name!r}: no such command in {beside} or on PATH; install it, or give its path")
    return found


def environment(before: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which every Python starts telemetry by itself."""
    paths = [path for path in before.get("PYTHONPATH", "").split(os.pathsep) if path and path != AUTOLOAD]
    return {**before, "PYTHONPATH": os.pathsep.join([AUTOLOAD, *paths])}
