"""Model calls of SDKs that nobody wrapped, recognised by the path that is asked for and read off the wire."""

import json
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import Any

from opentelemetry import trace

from . import dialects
from .calls import Asked, ModelCall, begin, provider_of
from .chunks import Reported
from .collected import when_collected
from .dialects import Dialect
from .guard import Guard
from .request import current_request
from .stream_record import DEADLINE_CODE, UNFINISHED, StreamRecord, end_of
from .vocabulary import StreamEnd

#: end of a path -> how its answers read, and the provider where the host tells none.
ROUTES: Mapping[str, tuple[Dialect, str]] = {
    "/chat/completions": (dialects.CHAT, "openai"),
    "/v1/completions": (dialects.COMPLETION, "openai"),
    "/v1/responses": (dialects.RESPONSES, "openai"),
    "/v1/embeddings": (dialects.EMBEDDINGS, "openai"),
    "/v1/messages": (dialects.MESSAGES, "anthropic"),
    "/api/chat": (dialects.OLLAMA, "ollama"),
    "/api/generate": (dialects.OLLAMA, "ollama"),
    ":generateContent": (dialects.GEMINI, "gcp.gemini"),
    ":streamGenerateContent": (dialects.GEMINI, "gcp.gemini"),
}
#: Such paths are other services' too: only a body that names a model makes a model call of them.
MODEL_IN_BODY = ("/api/chat", "/api/generate")
#: Attributes by which other instrumentors' spans show that they are model calls.
OTHERS_SAY = frozenset({"gen_ai.request.model", "gen_ai.system", "llm.model_name", "llm.system"})
#: Server-sent events, and JSON line by line.
EVENT_BEGINS, EVENT_ENDS = (b"data:", b"{"), (b"}", b"}\r")
#: As numbers: bytes look for another's by way of an exception.
QUOTE, BACKSLASH = b'"\\'
#: So many events in a row may be unlike the one before: of a stream that numbers or pads them no two are alike.
UNLIKE = 8
STREAMED_TYPES = ("text/event-stream", "application/x-ndjson")
#: A body beyond this is not read a second time for the sake of a few attributes.
MAX_BODY_BYTES = 4_000_000

Unpack = Callable[[bytes], bytes]
#: Content codings of the standard library -> its window bits; `deflate` is zlib's format by the standard.
ZLIB: Mapping[str, int] = {"gzip": 31, "x-gzip": 31, "deflate": 15}

guard = Guard("wire")


def call_of(library: str, method: str, path: str, host: str, port: int | None, body: bytes | None) -> ModelCall | None:
    """Start a model call if that is what this request is, else answer None."""
    end = next((end for end in ROUTES if path.endswith(end)), None) if method == "POST" else None
    if end is None:
        return None
    if _is_call(trace.get_current_span()):
        if request := current_request():
            request.work.notice()
        return None
    dialect, provider = ROUTES[end]
    said = json_object(body)
    if end in MODEL_IN_BODY and "model" not in said:
        return None
    options = said.get("options") or said.get("generationConfig")
    asked = Asked(
        dialect,
        model=str(
            said.get("model") or path.rpartition("/")[2].partition(":")[0] if ":" in end else said.get("model") or ""
        ),
        provider=provider_of(host, provider),
        address=host,
        port=port,
        streamed=said.get("stream") is True or end.startswith(":stream"),
        arguments=said | (options if isinstance(options, dict) else {}),
    )
    return begin(library, asked)


def _is_call(span: trace.Span) -> bool:
    """Say whether another instrumentor's span of this call is the current one."""
    return not OTHERS_SAY.isdisjoint(getattr(span, "attributes", None) or ())


def json_object(body: object) -> dict[str, Any]:
    """Return what a body says, where it is text or bytes of no more than MAX_BODY_BYTES; else an empty dictionary."""
    if not isinstance(body, (str, bytes, bytearray)) or len(body) > MAX_BODY_BYTES:
        return {}
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def report(call: ModelCall, body: bytes | None) -> None:
    """End a call whose answer came whole."""
    with guard:
        call.report(json_object(body))


def observer_of(call: ModelCall, headers: Mapping[str, str], *, decoded: bool = False) -> "Observer | Collector":
    """Return what observes the body of an answer with these headers; `decoded` says that its parts come unpacked."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = "" if decoded else headers.get("content-encoding", "").strip().lower()
    return (Observer if kind in STREAMED_TYPES else Collector)(call, unpacking(coding))


def unpacking(coding: str) -> Unpack:
    """Return what unpacks the parts of a body of this content coding, one after the other; of one unknown nothing.

    Brotli and zstd come only to clients that have loaded a library for them, which is used here.
    """
    if coding in ("", "identity"):
        return bytes
    with guard:
        if coding in ZLIB:
            unpacker = zlib.decompressobj(ZLIB[coding])
            return lambda part: unpacker.decompress(part, MAX_BODY_BYTES)
        if coding == "br" and (brotli := sys.modules.get("brotli")):
            return brotli.Decompressor().process  # type: ignore[no-any-return]
        if coding == "zstd" and (zstandard := sys.modules.get("zstandard")):
            return zstandard.ZstdDecompressor().decompressobj().decompress  # type: ignore[no-any-return]
    return lambda _: b""


class Collector:
    """Keeps the bytes of an answer that is no stream, to read what it reports when it is complete."""

    def __init__(self, call: ModelCall, unpack: Unpack = bytes) -> None:
        self._call: ModelCall | None = call
        self._unpack = unpack
        self._body = b""

    def ask(self) -> None:
        """Take no note: nothing is timed here."""

    def see(self, part: bytes) -> None:
        """Keep a part."""
        with guard:
            if len(self._body) <= MAX_BODY_BYTES:
                self._body += self._unpack(part)

    def end(self, end: StreamEnd, error: BaseException | None = None) -> None:  # noqa: ARG002 - as an Observer's
        """End the call, the first time only."""
        call, self._call = self._call, None
        if call and error is not None:
            call.fail(error)
        elif call:
            report(call, self._body)

    def fail(self, error: BaseException) -> None:
        """End the call with what stopped the answer."""
        end = end_of(error)
        self.end(end, None if end in ("complete", *UNFINISHED) else error)


class Observer:
    """Reads the bytes of a streamed answer on their way: server-sent events, or JSON line by line."""

    def __init__(self, call: ModelCall, unpack: Unpack = bytes) -> None:
        dialect = call.asked.dialect
        self._record: StreamRecord = call.record(partial(_take, dialect))
        self._has_token = dialect.has_token
        self._unpack = unpack
        self._rest = b""
        #: What stood before and after the text where the pattern last found a token; no line has a line end in it.
        self._around = (b"\n", b"")
        self._unlike = UNLIKE
        self._failure: Any = None
        self._finalizer = when_collected(self, self._record.finish, "abandoned")

    def ask(self) -> None:
        """Take note that the reader asks for more."""
        self._record.asked_ns = time.perf_counter_ns()

    def see(self, part: bytes) -> None:
        """Read the events of a part."""
        try:
            self._see(part, time.perf_counter_ns())
        except Exception as error:  # as `with guard`, which costs more
            if not guard.swallow(error):
                raise

    def _see(self, part: bytes, now_ns: int) -> None:
        record = self._record
        lines = (self._rest + self._unpack(part)).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if not line:
                continue
            if record.flows and self._has_plain_token(line):
                record.keep(line, now_ns)
            elif event := _event(line):
                self._failure = self._failure or event.get("error")
                record.see(event, now_ns)
            else:
                continue
            if record.asked_ns < now_ns:  # another event came in the same part: nobody waited for it
                record.asked_ns = now_ns

    def _has_plain_token(self, line: bytes) -> bool:
        """Say whether a line is an event with a token and no error: its JSON takes four times as long to read.

        Most lines are as the one before but for the text, which takes a third of the time of the pattern to see.
        """
        before, after = self._around
        if line.startswith(before) and line.endswith(after):
            text = line[len(before) : len(line) - len(after)]
            if text and QUOTE not in text and text[-1] != BACKSLASH:
                self._unlike = UNLIKE
                return True
        found = self._has_token.search(line) if self._has_token is not None else None
        if not found or not (line.startswith(EVENT_BEGINS) and line.endswith(EVENT_ENDS)) or b'"error":' in line:
            return False
        if self._unlike:
            self._unlike -= 1
            begins = found.end() - 1  # patterns end with a text's first character
            ends = line.find(b'"', begins)
            if line[ends - 1] != BACKSLASH:
                self._around = line[:begins], line[ends:]
        return True

    def end(self, end: StreamEnd, error: BaseException | None = None) -> None:
        """End the call, the first time only; a stream whose last word was an error is not complete."""
        if end == "complete" and self._failure:
            code = self._failure.get("code") if isinstance(self._failure, dict) else None
            end = "deadline" if code == DEADLINE_CODE else "error"
        if self._finalizer.detach():
            self._record.finish(end, error)

    def fail(self, error: BaseException) -> None:
        """End the call with what stopped the stream."""
        end = end_of(error)
        self.end(end, None if end in ("complete", *UNFINISHED) else error)


def _take(dialect: Dialect, reported: Reported, event: bytes | dict[str, Any]) -> None:
    """Take what an event reports, read or not."""
    dialect.take(reported, _event(event) if isinstance(event, bytes) else event)


def _event(line: bytes) -> dict[str, Any]:
    """Return the JSON of a line: what follows `data:` in an event, or all of it."""
    text = line[5:] if line.startswith(b"data:") else line
    return json_object(text.strip()) if text.lstrip().startswith(b"{") else {}


def observed(parts: Iterator[bytes], observer: Observer | Collector) -> Iterator[bytes]:
    """Give the same parts, observed."""
    while True:
        observer.ask()
        try:
            part = next(parts)
        except BaseException as error:
            observer.fail(error)
            if isinstance(error, StopIteration):
                return
            raise
        observer.see(part)
        yield part


async def observed_async(parts: AsyncIterator[bytes], observer: Observer | Collector) -> AsyncIterator[bytes]:
    """Give the same parts, observed."""
    while True:
        observer.ask()
        try:
            part = await anext(parts)
        except BaseException as error:
            observer.fail(error)
            if isinstance(error, StopAsyncIteration):
                return
            raise
        observer.see(part)
        yield part
