"""Sockets and HTTP servers: bound before anything else is touched, ended by us and not by uvicorn's signal handlers."""

import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from tailbudget.instrument.errors import UserError

from .asgi import App
from .tls import Tls

#: Exporters send every few seconds: a connection that they keep must not be closed as they come back.
KEEP_ALIVE_S = 75
GRACE_S = 3


def bind(host: str, port: int, *, setting: str) -> socket.socket:
    """Return a socket bound to the address; raises UserError, naming `setting`, when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named asyncio switches Nagle off; without, each answer waited 40 ms for a delayed ACK.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(1)  # another socket may be bound to the port and not listen yet
    except OSError as error:
        bound.close()
        raise UserError(
            f"port {port} on {host} cannot be used ({error.strerror}): choose another with {setting}"
        ) from error
    return bound


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals alone: its own handlers would raise them again and skip our clean-up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield


def server(app: App, *, tls: Tls | None = None) -> Server:
    """Return a server for `app`; `serve(sockets=[...])` runs it until `should_exit` is set."""
    return Server(
        uvicorn.Config(
            app,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # nothing here asks who sent a request
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else tls.key,
        )
    )
