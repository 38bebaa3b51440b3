"""What the network took is on the call's span, other peers are named, and only a service's own hosts see the tenant."""

import asyncio
import importlib
import os
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from opentelemetry.baggage import set_baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from tailbudget import UserError, request
from tailbudget.instrument import propagation
from tailbudget.instrument.hooks import http_httpx
from tests.instrument_support import Recorded, certificate, hooked, serve
from tests.scripted_server import ScriptedServer
from tests.support import free_port

CLIENTS = ("httpx", "aiohttp", "urllib3")


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with hooked(*CLIENTS) as recorded:
        yield recorded
    propagation.use_hosts(None)


@pytest.fixture(scope="module")
def scripted() -> Iterator[tuple[ScriptedServer, str]]:
    server = ScriptedServer()
    with serve(server.app()) as url:
        yield server, url


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server with TLS: its URL and its certificate."""
    made = certificate(tmp_path_factory.mktemp("tls"))
    with serve(ScriptedServer().app(), tls=made) as url:
        yield url, made.chain


async def twice_with_httpx(url: str, certificate: str) -> None:
    with httpx.Client(verify=ssl.create_default_context(cafile=certificate)) as client:
        for _ in range(2):
            await asyncio.to_thread(client.get, f"{url}/plain")


async def twice_with_async_httpx(url: str, certificate: str) -> None:
    async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=certificate)) as client:
        await client.get(f"{url}/plain")
        await client.get(f"{url}/plain")


async def twice_with_requests(url: str, certificate: str) -> None:
    with requests.Session() as session:
        for _ in range(2):
            await asyncio.to_thread(session.get, f"{url}/plain", verify=certificate, timeout=120)


async def twice_with_aiohttp(url: str, certificate: str) -> None:
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=certificate))
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(2):
            async with session.get(f"{url}/plain") as answer:
                await answer.read()


@pytest.mark.parametrize(
    "ask", [twice_with_httpx, twice_with_async_httpx, twice_with_requests, twice_with_aiohttp],
    ids=lambda ask: ask.__name__,
)  # fmt: skip
async def test_each_phase_of_a_connection_is_timed_and_a_reused_one_has_none(
    recorded: Recorded, secure: tuple[str, str], ask: Callable[[str, str], Any]
) -> None:
    await ask(*secure)
    assert [span.name for span in recorded.spans] == ["GET", "GET"]
    first, second = (attributes_of(span) for span in recorded.spans)
    opening = {"slo.net.dns", "slo.net.connect", "slo.net.tls"} - ({"slo.net.tls"} if "aio" in ask.__name__ else set())
    always = {"slo.net.pool_wait", "slo.net.send", "slo.net.wait_headers"}
    assert opening | always <= set(first)
    assert all(0 <= first[name] < 5 for name in opening | always)
    assert always <= set(second)
    assert not opening & set(second)
    assert (first["slo.net.reused"], second["slo.net.reused"]) == (False, True)
    assert first.get("slo.net.tls_resumed") in ({False, None} if "aio" in ask.__name__ else {False})
    assert first["slo.net.http_version"] == "1.1"
    assert first["server.address"] == "localhost"
    assert first["http.response.status_code"] == 200


async def test_waiting_for_a_connection_of_the_pool_is_seen(
    recorded: Recorded, scripted: tuple[ScriptedServer, str]
) -> None:
    said = {"model": "stall", "messages": [], "stream": True}
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(limits=limits, timeout=120) as client:
        url = f"{scripted[1]}/v1/chat/completions"
        await asyncio.gather(client.post(url, json=said), client.post(url, json=said))
    waits = sorted(attributes_of(span)["slo.net.pool_wait"] for span in recorded.spans)
    assert waits[0] < 0.5
    assert waits[1] > 1


def test_a_trace_of_the_users_own_is_still_called(recorded: Recorded, scripted: tuple[ScriptedServer, str]) -> None:
    events: list[str] = []
    with httpx.Client() as client:
        client.get(f"{scripted[1]}/plain", extensions={"trace": lambda event, _: events.append(event)})
    assert "http11.send_request_headers.started" in events
    assert "slo.net.send" in recorded.attributes("GET")


async def test_an_asynchronous_trace_of_the_users_own_is_still_awaited(
    recorded: Recorded, scripted: tuple[ScriptedServer, str]
) -> None:
    events: list[str] = []

    async def trace(event: str, _: Any) -> None:
        await asyncio.sleep(0)
        events.append(event)

    async with httpx.AsyncClient() as client:
        await client.get(f"{scripted[1]}/plain", extensions={"trace": trace})
    assert "http11.send_request_headers.started" in events
    assert "slo.net.send" in recorded.attributes("GET")


@pytest.mark.parametrize("status", [404, 500])
def test_a_peer_that_fails_is_an_error_of_its_span(
    recorded: Recorded, scripted: tuple[ScriptedServer, str], status: int
) -> None:
    requests.get(f"{scripted[1]}/plain?status={status}", timeout=120)
    assert recorded.attributes("GET")["error.type"] == str(status)
    assert recorded.named("GET").status.status_code == StatusCode.ERROR


def test_a_peer_that_cannot_be_reached_is_named(recorded: Recorded) -> None:
    port = free_port()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/")
    said = recorded.attributes("GET")
    assert (said["server.address"], said["server.port"]) == ("127.0.0.1", port)
    assert said["error.type"] == "httpx.ConnectError"


def test_redirects_and_retries_are_attempts(recorded: Recorded, scripted: tuple[ScriptedServer, str]) -> None:
    from urllib3.util import Retry

    with requests.Session() as session:
        retry = Retry(total=2, status_forcelist=[503], backoff_factor=0.1)
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
        with pytest.raises(requests.exceptions.RetryError):
            session.get(f"{scripted[1]}/plain?status=503", timeout=120)
    said = recorded.attributes("GET")
    assert said["slo.net.attempts"] == 3
    assert 0.15 < said["slo.net.backoff"] < 2


ASKERS: dict[str, Callable[[str], Any]] = {
    "httpx": lambda url: httpx.get(url),
    "requests": lambda url: requests.get(url, timeout=120),
}


@pytest.mark.parametrize("client", [*ASKERS, "aiohttp"])
@pytest.mark.parametrize(("hosts", "told"), [(None, True), (("127.0.0.0/8",), True), (("*.example.com",), False)])
async def test_the_tenant_goes_to_own_hosts_alone_and_the_trace_to_all(
    recorded: Recorded, scripted: tuple[ScriptedServer, str], client: str, hosts: tuple[str, ...] | None, told: bool
) -> None:
    propagation.use_hosts(hosts)
    scripted[0].headers.clear()
    with request("chat", tenant="acme", request_id="r-7"):
        if client == "aiohttp":
            async with aiohttp.ClientSession() as session, session.get(f"{scripted[1]}/plain") as answer:
                await answer.read()
        else:
            await asyncio.to_thread(ASKERS[client], f"{scripted[1]}/plain")
    (sent,) = scripted[0].headers
    span = recorded.named("GET").get_span_context()
    assert span is not None
    assert sent["traceparent"] == f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    assert ("baggage" in sent) is told
    if told:
        assert set(sent["baggage"].split(",")) == {"slo.request.id=r-7", "slo.tenant=acme"}


@pytest.mark.parametrize("request_id", ["7f3a", "r-7", "seven of nine", "ü7", "a,b;c=d"])
@pytest.mark.parametrize("around", [{}, {"team": "a b"}])
def test_baggage_is_written_as_opentelemetry_writes_it(
    recorded: Recorded, request_id: str, around: dict[str, str]
) -> None:
    context = Context()
    for name, value in around.items():
        context = set_baggage(name, value, context)
    sent: dict[str, str] = {}
    expected: dict[str, str] = {}
    with request("chat", request_id=request_id):
        propagation.inject(context, "localhost", has=sent.__contains__, put=sent.__setitem__)
        W3CBaggagePropagator().inject(expected, propagation.with_request(context))
    assert sent == expected
    assert recorded.spans


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True), ("::1", True), ("10.1.2.3", True), ("192.168.0.9", True), ("localhost", True),
        ("runtime", True), ("billing.svc", True), ("db.prod.internal", True),
        ("8.8.8.8", False), ("api.openai.com", False), ("internal.example.com", False),
    ],
)  # fmt: skip
def test_which_hosts_are_the_services_own_by_default(host: str, own: bool) -> None:
    propagation.use_hosts(None)
    assert propagation.trusted(host) is own


def test_the_hosts_can_be_set_by_a_variable_and_a_bad_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, propagation.VARIABLE, "*.example.com, 10.0.0.0/8")
    propagation.use_hosts(None)
    assert [propagation.trusted(host) for host in ("a.example.com", "10.1.1.1", "127.0.0.1")] == [True, True, False]
    with pytest.raises(UserError, match=r"propagate_to has '10\.0\.0\.0/99'"):
        propagation.use_hosts(("10.0.0.0/99",))
    monkeypatch.delitem(os.environ, propagation.VARIABLE)
    propagation.use_hosts(None)


class Plain(dict[str, str]):
    """Headers of another make."""

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in self.items()]


@pytest.mark.parametrize("module", ["httpx", "httpx2"])
def test_headers_of_httpx_are_read_and_written_where_it_keeps_them(module: str) -> None:
    kind = importlib.import_module(module).Headers
    headers, plain = kind({"Accept": "a", "X-B": "b"}), Plain({"Accept": "a", "X-B": "b"})
    listed = http_httpx._listed(headers)
    assert listed is headers._list
    assert http_httpx._listed(plain) is None
    assert http_httpx._names(headers) == http_httpx._names(plain) == b"\naccept\nx-b\n"


@pytest.mark.parametrize("listed", [True, False])
def test_headers_of_propagation_stand_once_beside_the_users(monkeypatch: pytest.MonkeyPatch, *, listed: bool) -> None:
    if not listed:
        monkeypatch.setattr(http_httpx, "_are_listed", lambda _: False)
    sent = []
    transport = httpx.MockTransport(lambda request: sent.append(request) or httpx.Response(200))  # type: ignore[func-returns-value]
    with hooked("httpx"), request("chat"), httpx.Client(transport=transport) as client:
        client.get("http://127.0.0.1:1/", headers={"TraceParent": "mine"})
        client.get("http://127.0.0.1:1/")
    users, ours = [[name.lower() for name, _ in each.headers.raw] for each in sent]
    assert sent[0].headers["traceparent"] == "mine"
    assert (users.count(b"traceparent"), ours.count(b"traceparent"), ours.count(b"baggage")) == (1, 1, 1)
    assert sent[1].headers["traceparent"].startswith("00-")
