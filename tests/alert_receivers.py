"""Receivers of alerts for tests: an HTTP server and a mail server that can be away, slow to agree, or refuse."""

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_string, policy
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .instrument_support import Certificate
from .support import free_port


@dataclass
class Received:
    """One request that came."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Receiver:
    """An HTTP server; `status` is what it answers. Every request is kept, also those that it refuses."""

    port: int
    status: int = 200
    received: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def taken(self) -> list[Received]:
        """What came, each repeat once."""
        return list({one.headers.get("idempotency-key", str(n)): one for n, one in enumerate(self.received)}.values())


@contextmanager
def receiver(port: int | None = None, *, status: int = 200) -> Iterator[Receiver]:
    """Run an HTTP server."""
    found = Receiver(port or free_port(), status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.received.append(Received(self.path, headers, json.loads(body) if body else None))
            self.send_response(found.status)
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - the name that the server calls

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", found.port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@dataclass
class MailBox:
    """A mail server; `answer` is what it says to a message."""

    port: int
    answer: str = "250 taken"
    mails: list[Message] = field(default_factory=list)


@contextmanager
def mail_box(port: int | None = None, *, tls: Certificate | None = None) -> Iterator[MailBox]:
    """Run a mail server that speaks as much SMTP as a sender needs; with a certificate, inside of TLS."""
    found = MailBox(port or free_port())

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 here")
            for line in iter(self.rfile.readline, b""):
                word = line.split()[0].upper() if line.split() else b""
                if word == b"DATA":
                    self._say("354 go on")
                    text = b"".join(iter(self.rfile.readline, b".\r\n")).decode()
                    if found.answer.startswith("250"):
                        found.mails.append(message_from_string(text, policy=policy.default))
                    self._say(found.answer)
                elif word == b"QUIT":
                    self._say("221 bye")
                    return
                else:
                    self._say("250 fine")

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if tls:
        context.load_cert_chain(tls.chain, tls.key)

    class Server(socketserver.ThreadingTCPServer):
        def get_request(self) -> tuple[socket.socket, Any]:
            connection, address = super().get_request()
            return context.wrap_socket(connection, server_side=True) if tls else connection, address

    with Server(("127.0.0.1", found.port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
