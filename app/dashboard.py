"""Starts the Streamlit pages on one address, and ends them when the process is told to."""

import asyncio
import gc
import ipaddress
import os
import signal
import socket
import sys
import threading
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from tailbudget.analytics.sag import SagSettings
from tailbudget.collector.giving_way import DASHBOARD_STEPS, give_way
from tailbudget.instrument.errors import UserError

from .pages.parts.gate import VARIABLE

FOLDER = Path(__file__).parent
SCRIPT = FOLDER / "pages" / "script" / "tailbudget_pages.py"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
CONFIG = FOLDER / "theme" / "config.toml"
#: What the first viewer will want is asked for so long after the start, which has the CPU until then.
AHEAD_AFTER_S = 1.0
#: The end waits so long for who asks: extension modules complain of threads that outlive them.
AHEAD_ENDS_S = 2.0


def serve(*, api: str, host: str, port: int, token: str = "", no_auth: bool = False) -> None:
    """Serve the dashboard over the collector's read API at `api` until SIGTERM or SIGINT.

    On an address other than loopback the pages ask for `token`, unless `no_auth`.

    Must be called in the main thread. The pages read TAILBUDGET_API, which is set here, and TAILBUDGET_SAG. Raises
    UserError when `host` and `port` cannot be listened on, others could read without a token, TAILBUDGET_SAG is none,
    or the `app` extra is not installed.
    """
    for number in SIGNALS:
        signal.signal(number, _leave)  # until the loop runs, which takes Streamlit's import a second
    _check_free(host, port)
    os.environ[VARIABLE] = "" if no_auth or is_loopback(host) else _required(token, host)
    SagSettings.parse(os.environ.get("TAILBUDGET_SAG", ""))
    os.environ["TAILBUDGET_API"] = api
    try:
        from streamlit.web import bootstrap
    except ModuleNotFoundError as error:
        raise UserError(f"the dashboard needs {error.name!r}: pip install 'tailbudget[app]'") from error
    give_way(DASHBOARD_STEPS)
    bootstrap.load_config_options({**settings(), "server.address": host, "server.port": port})
    told: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda given, _: told.append(given))  # to leave now would leave half an event loop behind
    asyncio.run(_run(told))


async def _run(told_before: list[int]) -> None:
    """Run Streamlit's server until a signal: `bootstrap.run` hears none while it starts, and dies of it loudly."""
    from streamlit.web import bootstrap
    from streamlit.web.server import Server

    stop = asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if told_before:
        return
    server = Server(str(SCRIPT), is_hello=False)
    await server.start()
    bootstrap.prepare_streamlit_environment(server.main_script_path)
    over = threading.Event()
    ahead = threading.Thread(target=_ask_ahead, args=(over,), name="ahead", daemon=True)
    ahead.start()
    stopped = asyncio.ensure_future(server.stopped)
    told = asyncio.create_task(stop.wait())
    await asyncio.wait([stopped, told], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    over.set()
    server.stop()
    await stopped
    ahead.join(AHEAD_ENDS_S)
    gc.unfreeze()  # extension modules complain of what is left at the end


def _ask_ahead(over: threading.Event) -> None:
    if not over.wait(AHEAD_AFTER_S):
        from .pages import site  # noqa: F401 - a second of imports, in which the server would not answer
        from .pages.parts import ahead

        gc.freeze()  # what was imported stays: to look through it is most of what Python's collector does here
        ahead.ask(over.wait)


def settings(path: Path = CONFIG) -> dict[str, object]:
    """Return the options of a Streamlit `config.toml`, flat: `{"theme.base": "dark", ...}`."""
    return _flat(tomllib.loads(path.read_text(encoding="utf-8")))


def _flat(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`; a name other than localhost may lead anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _required(token: str, host: str) -> str:
    if not token:
        raise UserError(
            f"the dashboard would show everything to whoever reaches {host}: "
            "set TAILBUDGET_TOKEN or --token-file, which its pages then ask for, or say --no-auth"
        )
    return token


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
    sys.exit(0)


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"the dashboard cannot listen on {host}:{port}: {error.strerror}: "
                "expected a free port: name another with --port or TAILBUDGET_APP_PORT"
            ) from error
