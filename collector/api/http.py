"""The read API as a raw ASGI application: POST /v1/sql, /v1/snapshot, /metrics, /healthz, /readyz."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

import duckdb

from tailbudget.analytics.formats import Answer, Sink, TooManyRowsError
from tailbudget.analytics.reader import ARROW_STREAM
from tailbudget.instrument.errors import UserError

from ..asgi import (
    JSON,
    TEXT,
    App,
    BodyTooLargeError,
    ClientGoneError,
    Receive,
    Scope,
    Send,
    headers,
    read_body,
    respond,
    respond_json,
)
from ..counters import Counters
from ..land.forgetting import Forget, Forgotten
from ..token import bears
from .guard import RefusedSqlError
from .queries import LONGEST_S, MAX_BYTES, MAX_ROWS, TIMEOUT_S, Queries, Query, TimedOutError
from .snapshots import PATH as SNAPSHOT
from .spool import AnswerTooLargeError, Spool
from .turns import BusyError

log: Final = logging.getLogger(__name__)

CSV: Final = "text/csv"
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
#: DuckDB draws the place under the line: in JSON `position` tells it.
DRAWING: Final = re.compile(r"\n*LINE \d+:.*", re.DOTALL)
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
#: Of an answer, sent at once.
CHUNK_BYTES: Final = 256 * 1024
#: A client that takes no chunk for so long is left.
STUCK_S: Final = 60.0
#: Answered to everybody: what watches whether the collector lives has no token.
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
FORMATS: Final[dict[str, Callable[[Answer, Sink], None]]] = {
    ARROW_STREAM: Answer.write_arrow,
    JSON: Answer.write_json,
    CSV: Answer.write_csv,
}
#: What can be wrong with a query: the status, and what mends it.
FAULTS: Final[dict[type[Exception], tuple[int, str]]] = {
    RefusedSqlError: (400, ""),
    TooManyRowsError: (400, f"add a limit, or ask for more with max_rows (default {MAX_ROWS})"),
    AnswerTooLargeError: (400, f"add a limit, name columns, or ask for more with max_bytes (default {MAX_BYTES})"),
    TimedOutError: (408, f"narrow the time, or ask for longer with timeout_s (at most {LONGEST_S:g})"),
    BusyError: (503, "try again"),
    duckdb.Error: (400, ""),
    BodyTooLargeError: (413, f"at most {MAX_BODY_BYTES} bytes of JSON"),
}


class BadRequestError(Exception):
    """A request body that is not what /v1/sql expects."""


class ApiApp:
    """Answers by path; `ready()` says whether OTLP is accepted, `hosts` which names a Host header may have.

    With a `token` only those who bear it are answered, but for health.
    `deeds` are further paths that take a JSON object and answer one, or raise UserError.
    `fault()` is the reason why nothing more is accepted until a new start, None while all is well.
    """

    def __init__(
        self,
        queries: Queries,
        *,
        counters: Counters,
        ready: Callable[[], bool],
        hosts: frozenset[str] | None,
        token: str | None = None,
        erase: Callable[[Forget], "Future[Forgotten]"] | None = None,
        fault: Callable[[], str | None] = lambda: None,
        snapshot: App | None = None,
        deeds: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]] = {},
    ) -> None:
        self._queries = queries
        self._counters = counters
        self._ready = ready
        self._fault = fault
        self._hosts = hosts
        self._token = token
        self._erase = erase
        self._routes: Final[dict[str, tuple[str, Callable[[Scope, Receive, Send], Awaitable[None]]]]] = {
            "/v1/sql": ("POST", self._sql),
            **({"/v1/forget": ("POST", self._forget)} if erase else {}),
            "/metrics": ("GET", self._metrics),
            **{path: ("POST", partial(self._deed, deed)) for path, deed in deeds.items()},
            "/healthz": ("GET", self._healthz),
            "/readyz": ("GET", self._readyz),
            **({SNAPSHOT: ("POST", snapshot)} if snapshot else {}),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        fields = headers(scope)
        host = _host(fields.get(b"host", b"").decode("latin-1"))
        if self._hosts is not None and host not in self._hosts:
            names = " or ".join(sorted(self._hosts))
            # A page on the internet whose name was made to point here must not read what a browser may reach.
            await _refuse(send, 403, f"Host {host!r} is not a name of this collector", f"call it {names}")
            return
        if scope["path"] not in OPEN_PATHS and not bears(fields, self._token):
            hint = "send Authorization: Bearer and the collector's token (readers take it from TAILBUDGET_TOKEN)"
            await _refuse(send, 401, "no token, or not the collector's", hint, {"www-authenticate": "Bearer"})
            return
        route = self._routes.get(scope["path"])
        if route is None:
            await _refuse(send, 404, f"no {scope['path']!r} here", f"expected one of {', '.join(self._routes)}")
            return
        method, answer = route
        if scope["method"] not in (method, "HEAD" if method == "GET" else method):
            await _refuse(send, 405, f"{scope['method']} {scope['path']}", f"expected {method}", {"allow": method})
            return
        await answer(scope, receive, send)

    async def _forget(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._erase is not None
        try:
            body = await read_body(receive, declared=headers(scope).get(b"content-length"), limit=MAX_BODY_BYTES)
            what = _what(body)
            async with self._queries.alone():
                found = await asyncio.wrap_future(self._erase(what))
            await respond_json(send, 200, {"traces": found.traces, "rows": found.rows})
        except ClientGoneError:
            return
        except BadRequestError as error:
            await _refuse(send, 400, str(error), "expected {tenant} or {request}")
        except BusyError as error:
            await _refuse(send, 503, str(error), "try again", {"retry-after": "5"})
        except (duckdb.Error, OSError) as error:
            await _refuse(send, 500, str(error), "the collector's log says more; asking again goes on where it ended")

    async def _deed(
        self, deed: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            body = await read_body(receive, declared=headers(scope).get(b"content-length"), limit=MAX_BODY_BYTES)
            fields = json.loads(body or b"{}")
            if not isinstance(fields, dict):
                raise UserError("the body is no JSON object")
            await respond_json(send, 200, await deed(fields))
        except ClientGoneError:
            return
        except BodyTooLargeError as error:
            await _refuse_query(send, error)
        except UserError as error:
            await _refuse(send, 400, str(error), "")
        except ValueError as error:
            await _refuse(send, 400, str(error), "expected a JSON object")
        except (duckdb.Error, OSError) as error:
            await _refuse(send, 500, str(error), "the collector's log says more")

    async def _metrics(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, 200, self._counters.exposition(), content_type=PROMETHEUS)

    async def _healthz(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, 200, b"ok\n", content_type=TEXT)

    async def _readyz(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        missing = self._fault() or (None if self._ready() else "starting")
        await respond(send, 503 if missing else 200, f"{missing or 'ready'}\n".encode(), content_type=TEXT)

    async def _sql(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = headers(scope)
        try:
            media, write = _format(fields.get(b"accept", b"").decode("latin-1"))
            body = await read_body(receive, declared=fields.get(b"content-length"), limit=MAX_BODY_BYTES)
            query = _query(body, write=write)
            gone = asyncio.Event()
            watch = asyncio.create_task(_watch(receive, gone))
            try:
                answer = await self._queries.run(query, gone=gone)
            finally:
                watch.cancel()
            await self._send_answer(send, answer, media=media)
        except ClientGoneError:
            return
        except BadRequestError as error:
            await _refuse(send, 400, str(error), "expected {sql, params, timeout_s, max_rows, max_bytes}")
        except tuple(FAULTS) as error:
            await _refuse_query(send, error)
        except Exception as error:
            log.exception("a query failed")
            await _refuse(send, 500, f"internal fault: {error}", "")

    async def _send_answer(self, send: Send, answer: Spool, *, media: str) -> None:
        self._queries.unread += 1
        try:
            size = str(answer.size).encode()
            fields = [(b"content-type", media.encode()), (b"content-length", size)]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            left = answer.size
            while left:
                if answer.in_memory:
                    chunk = answer.read(CHUNK_BYTES)
                else:
                    chunk = await asyncio.to_thread(answer.read, CHUNK_BYTES)
                left -= len(chunk)
                async with asyncio.timeout(STUCK_S):
                    await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})
        except TimeoutError:
            log.warning("a client that read nothing of its answer for %d s was left", STUCK_S)
        finally:
            self._queries.unread -= 1
            answer.close()


def _host(field: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    name = field.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def _format(accept: str) -> tuple[str, Callable[[Answer, Sink], None]]:
    """Return the first format of the Accept header that we have; Arrow when it names none or anything."""
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for media in wanted:
        if media in FORMATS:
            return media, FORMATS[media]
    if accept and "*/*" not in wanted and "application/*" not in wanted:
        raise BadRequestError(f"Accept {accept!r}: expected one of {', '.join(FORMATS)}")
    return ARROW_STREAM, FORMATS[ARROW_STREAM]


def _query(body: bytes, *, write: Callable[[Answer, Sink], None]) -> Query:
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("sql"), str):
        raise BadRequestError("the body has no text `sql`")
    unknown = fields.keys() - {"sql", "params", "timeout_s", "max_rows", "max_bytes"}
    if unknown:
        raise BadRequestError(f"unknown field {min(unknown)!r}")
    params = fields.get("params") or {}
    if not isinstance(params, Mapping):
        raise BadRequestError(f"params is {params!r}: expected an object of names and values")
    return Query(
        sql=fields["sql"],
        params=params,
        timeout_s=_number(fields, "timeout_s", TIMEOUT_S, LONGEST_S),
        max_rows=int(_number(fields, "max_rows", MAX_ROWS, 100 * MAX_ROWS)),
        max_bytes=int(_number(fields, "max_bytes", MAX_BYTES, 100 * MAX_BYTES)),
        write=write,
    )


def _what(body: bytes) -> Forget:
    try:
        return Forget(**json.loads(body))
    except (ValueError, TypeError, UserError) as error:
        raise BadRequestError(f"the body says nothing to forget: {error}") from error


def _number(fields: Mapping[str, Any], name: str, default: float, most: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise BadRequestError(f"{name} is {value!r}: expected a number above 0, at most {most:g}")
    return value


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


async def _refuse_query(send: Send, error: Exception) -> None:
    status, hint = next(answer for kind, answer in FAULTS.items() if isinstance(error, kind))
    reason, _, more = str(error).partition("\n")
    hint = hint or getattr(error, "hint", "") or DRAWING.sub("", more).strip()
    extra = {"retry-after": "5"} if status == 503 else None
    await _refuse(send, status, reason, hint, extra, position=getattr(error, "position", None))


async def _refuse(
    send: Send,
    status: int,
    error: str,
    hint: str,
    extra: Mapping[str, str] | None = None,
    *,
    position: int | None = None,
) -> None:
    await respond_json(send, status, {"error": error, "hint": hint or None, "position": position}, extra=extra)
