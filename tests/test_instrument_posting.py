"""What the exporters post arrives as `requests` would send it, and what comes back is what `requests` would say."""

import contextlib
import gzip
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext

from tailbudget.instrument.exporters import PromptSession
from tailbudget.instrument.posting import Post
from tests.support import free_port, wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Said: yes\r\n\r\n{}"
HEADERS = {"content-type": "application/x-protobuf", "user-agent": "OTel-OTLP", "x-key": "a=b"}
HEAD = b"HTTP/1.1 200 OK\r\n"
PACKED = gzip.compress(b"not this")
#: What a server may answer, in the pieces in which it does; None closes the connection.
ANSWERS: dict[str, Sequence[bytes | None]] = {
    "plain": [OK],
    "none": [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nConnection: Keep-Alive\r\n\r\n"],
    "other names": [b"HTTP/1.1 200 Fine, thanks\r\nCONTENT-LENGTH:2 \r\nA: b:c\r\n\r\n{}"],
    "body later": [HEAD + b"Content-Length: 5\r\n\r\n1", b"23", b"45"],
    "head in pieces": [b"HTTP/1.1 20", b"0 OK\r\nContent-Le", b"ngth: 2\r\n\r\n{}"],
    "no reason": [b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"],
    "bare lines": [b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}"],
    "folded": [HEAD + b"X-Long: a\r\n  b\r\nContent-Length: 2\r\n\r\n{}"],
    "chunks": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", b"0\r\n\r\n"],
    "chunks and a length": [HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"],
    "packed": [HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(PACKED), PACKED)],
    "old": [b"HTTP/1.0 200 OK\r\n\r\nall of it", None],
    "closing": [HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}", None],
    "until closed": [HEAD + b"\r\nall of it", None],
    "go on": [b"HTTP/1.1 100 Continue\r\n\r\n", OK],
    "nothing said": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "refused": [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n\r\nbad"],
    "refused packed": [
        b"HTTP/1.1 413 Long\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(PACKED), PACKED)
    ],
    "later": [b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"],
    "elsewhere": [b"HTTP/1.1 307 There\r\nLocation: /v2\r\nContent-Length: 0\r\n\r\n"],
    "two lengths": [HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"],
    "garbage": [b"SSH-2.0-OpenSSH_9.6\r\n", None],
    "closed": [None],
    "cut in the head": [b"HTTP/1.1 200 OK\r\nContent-Le", None],
    "cut in the body": [HEAD + b"Content-Length: 9\r\n\r\n123", None],
    "cut in a chunk": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\n123", None],
}


class Scripted:
    """A server that answers each request with the next of its answers; `asked` has the requests by connection."""

    def __init__(self, answers: Iterator[Sequence[bytes | None]]) -> None:
        self._answers = answers
        self.asked: list[list[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1/traces"
        #: A connection that the server closes is told of here.
        self.closed: queue.SimpleQueue[int] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.asked.append([])
                threading.Thread(target=self._talk, args=(connection, self.asked[-1]), daemon=True).start()

    def _talk(self, connection: socket.socket, asked: list[bytes]) -> None:
        with connection, connection.makefile("rb") as file, contextlib.suppress(OSError):
            while line := file.readline():
                head = line
                while (line := file.readline()) != b"\r\n":
                    head += line
                size = next(int(said[15:]) for said in head.splitlines() if said.startswith(b"Content-Length:"))
                asked.append(head + b"\r\n" + file.read(size))
                for piece in next(self._answers):
                    if piece is None:
                        break
                    connection.sendall(piece)
                else:
                    continue
                break
        self.closed.put(1)


@contextlib.contextmanager
def scripted(*answers: Sequence[bytes | None]) -> Iterator[Scripted]:
    """Run a server that gives these answers, the last of them for ever."""

    def endless() -> Iterator[Sequence[bytes | None]]:
        yield from answers
        while True:
            yield answers[-1]

    server = Scripted(endless())
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def session() -> Iterator[PromptSession]:
    with PromptSession() as made:
        yield made


def post(session: requests.Session, url: str, body: bytes = b"body", **options: Any) -> Any:
    """Post as OpenTelemetry's exporter does."""
    asked: dict[str, Any] = {"headers": HEADERS, "timeout": 20, "allow_redirects": False} | options
    return session.request(method="POST", url=url, data=body, **asked)


def outcome(ask: Callable[[], Any]) -> Any:
    """Return what an exporter may read of an answer, or the kind of the error."""
    try:
        answer = ask()
    except requests.RequestException as error:
        return type(error)
    return answer.status_code, answer.ok, answer.reason, dict(answer.headers), answer.content, answer.url


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_an_answer_is_what_requests_makes_of_it(session: PromptSession, answer: Sequence[bytes | None]) -> None:
    with scripted(answer) as server, requests.Session() as theirs:
        told = [outcome(lambda: post(theirs, server.url)), outcome(lambda: post(session, server.url))]
        told.append(outcome(lambda: post(session, server.url)))  # whatever is left of the first does no harm
        assert told[0] == told[1] == told[2]
        asked = [request for connection in server.asked for request in connection]
    assert asked == asked[:1] * 3
    assert session._post is not None


@pytest.mark.parametrize(
    ("before", "path"), [("", "/v1/traces"), ("user:secret@", "/a/b?c=d e"), ("", "/übel/%7Ex")], ids=str
)
def test_what_is_posted_is_what_requests_sends(session: PromptSession, before: str, path: str) -> None:
    with scripted([OK]) as server, requests.Session() as theirs:
        url = server.url.replace("//", f"//{before}").replace("/v1/traces", path)
        for body in (b"x", bytes(range(256)) * 1000):
            post(theirs, url, body)
            post(session, url, body)
    ours, own = server.asked[1], server.asked[0]
    assert ours == own
    assert session._post is not None


def test_a_connection_is_kept_until_the_other_side_closes_it(session: PromptSession) -> None:
    closing = [OK, None]
    with scripted([OK], ANSWERS["chunks"], ANSWERS["later"], closing, [OK]) as server:
        for _ in range(3):
            post(session, server.url)
        assert post(session, server.url).ok
        server.closed.get(timeout=30)
        for _ in range(2):
            assert post(session, server.url).ok
        assert [len(connection) for connection in server.asked] == [4, 2]


def test_a_child_has_a_connection_of_its_own_and_leaves_the_parents(session: PromptSession) -> None:
    with scripted([OK]) as server:
        post(session, server.url)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            session.after_fork()
            os.write(writing, b"1" if post(session, server.url).ok else b"0")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reading, 1) == b"1"
        for end in (reading, writing):
            os.close(end)
        assert post(session, server.url).ok
        assert [len(connection) for connection in server.asked] == [2, 1]


def test_who_posts_at_once_does_not_share_a_connection(session: PromptSession) -> None:
    with scripted([OK]) as server:
        post(session, server.url)
        start = threading.Barrier(8)
        said: queue.SimpleQueue[bool] = queue.SimpleQueue()

        def ask(body: bytes) -> None:
            start.wait(30)
            for _ in range(20):
                said.put(post(session, server.url, body).content == b"{}")

        threads = [threading.Thread(target=ask, args=(b"%d" % n * 5000,)) for n in range(8)]
        for thread in threads:
            thread.start()
        assert all(said.get(timeout=60) for _ in range(160))
        for thread in threads:
            thread.join(30)
    bodies = [request.partition(b"\r\n\r\n")[2] for connection in server.asked for request in connection]
    assert sorted(map(len, bodies)) == [4] + [5000] * 160
    assert all(len(set(body)) == 1 for body in bodies[1:])


def test_a_connection_in_use_is_closed_after_it_when_the_session_is(session: PromptSession) -> None:
    with scripted([OK]) as server:
        post(session, server.url)
        kept = session._post
        assert kept is not None
        answer = kept._answer

        def closing(line: socket.socket) -> Any:
            session.close()
            return answer(line)

        kept._answer = closing  # type: ignore[method-assign]
        assert post(session, server.url).ok
        server.closed.get(timeout=30)
        assert kept._kept is None


def test_nobody_there_is_a_connection_error(session: PromptSession) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1/traces"
    with pytest.raises(requests.ConnectionError, match="refused"):
        post(session, url)
    with pytest.raises(requests.ConnectionError):
        post(session, "http://nobody.invalid/v1/traces")
    assert session.failing


def test_a_server_that_hangs_is_a_timeout(session: PromptSession) -> None:
    with scripted([b"HTTP/1.1 200 OK\r\n"]) as server, pytest.raises(requests.ReadTimeout):
        post(session, server.url, timeout=0.05)
    with scripted([HEAD + b"Content-Length: 5\r\n\r\n1"]) as server, pytest.raises(requests.Timeout):
        post(session, server.url, timeout=0.05)


def test_a_redirect_is_followed_where_it_is_asked_for(session: PromptSession) -> None:
    with scripted(ANSWERS["elsewhere"], ANSWERS["elsewhere"], [OK]) as server:
        assert post(session, server.url, allow_redirects=True).status_code == 200
        asked = [request.split()[1] for connection in server.asked for request in connection]
    assert asked == [b"/v1/traces", b"/v1/traces", b"/v2"]


def test_a_proxy_of_the_environment_is_asked(session: PromptSession, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted([OK]) as proxy:
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1/traces"))
        assert post(session, "http://collector.example/v1/traces").ok
        ((asked,),) = proxy.asked
    assert asked.startswith(b"POST http://collector.example/v1/traces HTTP/1.1\r\n")
    assert session._post is None


@pytest.mark.parametrize(
    ("method", "url", "headers"),
    [
        ("POST", "https://collector.example/v1/traces", {}),
        ("GET", "http://collector.example/v1/traces", {}),
        ("POST", "http://collector.example/v1/traces", {"X-More": "1\r\nContent-Length: 1"}),
    ],
)
def test_what_is_not_plain_is_left_to_requests(method: str, url: str, headers: dict[str, str]) -> None:
    prepared = requests.Request(method, url, data=b"?").prepare()
    prepared.headers.update(headers)
    assert Post.of(prepared, {}) is None


@pytest.mark.parametrize("timeout", [0, (5, 5)], ids=str)
def test_a_timeout_that_only_requests_understands_is_its_own(session: PromptSession, timeout: Any) -> None:
    with scripted([OK]) as server, requests.Session() as theirs:
        told = []
        for asking in (theirs, session):
            try:
                told.append(post(asking, server.url, timeout=timeout).content)
            except ValueError as error:
                told.append(str(error).encode())
        assert told[0] == told[1]


def test_a_batch_is_sent_again_when_the_collector_asks_for_that(session: PromptSession) -> None:
    busy = [b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"]
    with scripted(busy, [None], [OK], ANSWERS["refused"]) as server:
        exporter = OTLPSpanExporter(endpoint=server.url, session=session, timeout=30)
        span = ReadableSpan("a", SpanContext(1, 2, is_remote=False), start_time=1, end_time=2)
        assert exporter.export([span]) is SpanExportResult.SUCCESS
        assert exporter.export([span]) is SpanExportResult.FAILURE
        bodies = [request.partition(b"\r\n\r\n")[2] for connection in server.asked for request in connection]
        assert len(bodies) == 4
        assert len(set(bodies)) == 1
        session.close()
        wait_until(lambda: server.closed.qsize() == 2, what="the end of both connections")
