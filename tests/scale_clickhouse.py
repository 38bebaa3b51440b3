"""ClickHouse's own engine (chdb, embedded) behind its HTTP interface: enough of it for clickhouse-connect.

Run as `python -m tests.scale_clickhouse PORT FOLDER`; it prints `ready` once it listens.
"""

import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from chdb import session

#: Parameters of a request that are no settings.
NO_SETTING = {
    "query",
    "database",
    "session_id",
    "query_id",
    "client_protocol_version",
    "wait_end_of_query",
    "default_format",
}
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """One statement a request, in `query` or in the body; data of an INSERT follows it in the body."""

    protocol_version = "HTTP/1.1"
    store: session.Session

    def do_GET(self) -> None:
        """Answer /ping, and statements in the address."""
        self.do_POST()

    def do_POST(self) -> None:
        """Run the statement, with its settings."""
        given = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        body = self._body()
        statement, data = (given["query"], body) if "query" in given else _split(body)
        settings = {
            name: value for name, value in given.items() if name not in NO_SETTING and not name.startswith("param_")
        }
        try:
            with LOCK:
                answer = self._run(statement or "SELECT 1", data, settings)
            self._send(200, answer)
        except RuntimeError as error:
            self._send(500, str(error).encode())

    def _run(self, statement: str, data: bytes, settings: dict[str, str]) -> bytes:
        text, _, form = statement.rstrip().rstrip(";").rpartition(" FORMAT ")
        if not text or " " in form.strip() or "\n" in form:
            text, form = statement, "TabSeparated"
        for name, value in settings.items():
            self.store.query(f"SET {name} = '{value}'")
        if text.lstrip().upper().startswith("INSERT") and data:
            return self._insert(text, form, data)
        return bytes(self.store.query(text, form).bytes())

    def _insert(self, text: str, form: str, data: bytes) -> bytes:
        table = text.split()[2]
        described = self.store.query(f"DESCRIBE TABLE {table.partition('(')[0]}", "TSVRaw").bytes().decode()
        listed = text.partition("(")[2].rstrip(") ")
        columns = [line.split("\t")[:2] for line in described.splitlines()]
        structure = ", ".join(f"`{name}` {kind}" for name, kind in columns if f"`{name}`" in listed)
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self.store.query(f"{text} SELECT {listed} FROM file('{file.name}', '{form}', $${structure}$$)")
        return b""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-ClickHouse-Timezone", "UTC")
        if status != 200:
            self.send_header("X-ClickHouse-Exception-Code", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def _split(body: bytes) -> tuple[str, bytes]:
    """Return the statement and the data behind it: an INSERT's begins after its first line."""
    if body.lstrip()[:6].upper() == b"INSERT":
        statement, _, data = body.partition(b"\n")
        return statement.decode(), data
    return body.decode(), b""


def main() -> None:
    """Serve until killed."""
    Handler.store = session.Session(str(Path(sys.argv[2])))
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
