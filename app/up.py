"""`tailbudget up`: collector, runtime, dashboard and, with --demo, a service with traffic, in one terminal."""

import os
import shutil
import signal
import socket
import time
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import click

from tailbudget.collector.token import read_token
from tailbudget.gpu_runtime.models import fetch, resolve
from tailbudget.instrument.errors import UserError

from .processes import Part, Processes

HOST = "127.0.0.1"
#: Port by the variable that changes it.
PORTS = {"HTTP": 4318, "GRPC": 4317, "API": 4320, "RUNTIME": 8000, "APP": 8501, "DEMO": 8080}
#: The detector's default needs 440 s of data; in the demo an incident lasts 90 s.
DEMO_SAG = "1,240,30,30,15"
DEMO_SLO = Path(__file__).parent / "demo" / "slo.yaml"
#: A cold start loads a model and warms it up, on a machine that starts three other programs meanwhile.
READY_WITHIN_S = 120.0
COMMAND = "tailbudget.app.main"
#: What the collector keeps free for landing, and as much again for data.
NEEDED_MB = 256


def up(*, demo: bool, model: str, data: Path, guard: str | None = None) -> None:
    """Start all parts, print each one's address once it answers, and serve until SIGINT or SIGTERM.

    With `demo` traffic follows, or with `guard` the trial of that guard.

    Raises UserError, after stopping what was started, when a port is taken, the model cannot be had, or a part ends.
    """
    stop = _StopFlag()
    ports = _ports(demo=demo)
    _require_space(data)
    _require_model(model, may_fetch=demo)
    parts = _parts(ports, model=model, data=data, demo=demo)
    processes = Processes(data / "logs")
    try:
        for part in parts:
            processes.start(part)
            if part.name == "collector":  # the others send to it from their first moment on
                processes.wait_ready(part, timeout_s=READY_WITHIN_S, stopping=stop)
        for part in parts:
            processes.wait_ready(part, timeout_s=READY_WITHIN_S, stopping=stop)
            _say(part, stop)
        if demo and not stop():
            processes.start(_trial(ports, guard, data) if guard else _traffic(ports, data))
        while not stop():
            processes.check()
            time.sleep(0.2)
        click.echo("stopping")
    finally:
        processes.stop()


class _StopFlag:
    """True once SIGINT or SIGTERM came; later ones change nothing, so that the first stop runs to its end."""

    def __init__(self) -> None:
        self._stopped = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._set)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self._stopped = True

    def __call__(self) -> bool:
        return self._stopped


def _ports(*, demo: bool) -> dict[str, int]:
    wanted = {}
    for name, default in PORTS.items():
        if name == "DEMO" and not demo:
            continue
        variable = f"TAILBUDGET_{name}_PORT"
        given = os.environ.get(variable) or str(default)
        if not given.isdecimal() or not 0 < int(given) < 65536:
            raise UserError(f"{variable} is {given!r}: expected a port between 1 and 65535")
        wanted[name] = int(given)
        _require_free(int(given), variable)
    return wanted


def _require_free(port: int, variable: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} is taken: stop what listens there, or set {variable}") from error


def _require_space(data: Path) -> None:
    """A part that cannot write its log could not say why it ended."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        free_mb = shutil.disk_usage(data).free >> 20
    except OSError as error:
        raise UserError(f"cannot use the data folder {str(data)!r}: {error.strerror}: name another --data") from error
    if free_mb < NEEDED_MB:
        raise UserError(
            f"no space for {str(data)!r}: {free_mb} MB free, {NEEDED_MB} needed: make room, or name another --data"
        )


def _require_model(model: str, *, may_fetch: bool) -> None:
    try:
        resolve(model)
    except UserError:
        if not may_fetch or Path(model).suffix:
            raise
        click.echo(f"fetching the model {model} (93 MB, once)")
        fetch(model)


def _parts(ports: dict[str, int], *, model: str, data: Path, demo: bool) -> list[Part]:
    http, api, runtime, page = (_url(ports[name]) for name in ("HTTP", "API", "RUNTIME", "APP"))
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": http, "TAILBUDGET_API": api, **_token(data)}
    promised: list[str] = []
    if demo:
        environment |= {
            "TAILBUDGET_SAG": DEMO_SAG,
            "TAILBUDGET_DASHBOARD": page,
            "TAILBUDGET_DEMO_URL": _url(ports["DEMO"]),
        }
        promised = [] if os.environ.get("TAILBUDGET_SLO") else ["--slo", str(DEMO_SLO)]
    numbers = [word for name in ("HTTP", "GRPC", "API") for word in (f"--{name.lower()}", str(ports[name]))]
    collector = ["collector", "--data", str(data), *numbers, *promised]
    engine = ["runtime", "--model", model, "--port", str(ports["RUNTIME"]), *(["--control"] if demo else [])]
    parts = [
        Part("collector", [COMMAND, *collector], environment, f"{api}/readyz", {"collector": http, "api": api}),
        Part("runtime", [COMMAND, *engine], environment, f"{runtime}/health", {"runtime": runtime}),
        Part(
            "dashboard",
            [COMMAND, "app", "--port", str(ports["APP"])],
            environment,
            f"{page}/_stcore/health",
            {"dashboard": page},
        ),
    ]
    if demo:
        service = _url(ports["DEMO"])
        arguments = ["tailbudget.app.demo.service", "--port", str(ports["DEMO"]), "--model-url", f"{runtime}/v1"]
        parts.append(Part("demo", arguments, environment, f"{service}/healthz", {"demo": service}))
    return parts


def _token(data: Path) -> dict[str, str]:
    """Return what makes the other parts bear the collector's token, where the environment gives it one."""
    file = os.environ.get("TAILBUDGET_TOKEN_FILE")
    token = read_token(Path(file), data=data) if file else os.environ.get("TAILBUDGET_TOKEN", "").strip()
    if not token:
        return {}
    given = os.environ.get("OTEL_EXPORTER_OTLP_HEADERS")
    bearer = f"authorization=Bearer%20{quote(token)}"
    return {"TAILBUDGET_TOKEN": token, "OTEL_EXPORTER_OTLP_HEADERS": f"{given},{bearer}" if given else bearer}


def _traffic(ports: dict[str, int], data: Path) -> Part:
    demo, runtime, api = (_url(ports[name]) for name in ("DEMO", "RUNTIME", "API"))
    arguments = ["tailbudget.app.demo.traffic", "--demo", demo, "--runtime", runtime, "--api", api]
    return Part("traffic", arguments, _token(data), speaks=True)


def _trial(ports: dict[str, int], guard: str, data: Path) -> Part:
    http, runtime = _url(ports["HTTP"]), _url(ports["RUNTIME"])
    arguments = ["tailbudget.app.demo.trial", "--guard", guard, "--model-url", f"{runtime}/v1"]
    return Part("trial", arguments, {**_token(data), "OTEL_EXPORTER_OTLP_ENDPOINT": http}, speaks=True)


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


def _say(part: Part, stop: _StopFlag) -> None:
    if not stop():
        for name, address in part.addresses.items():
            click.echo(f"{name:<10} {address}")
