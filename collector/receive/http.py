"""OTLP over HTTP as a raw ASGI application: every answer but 200 says what was wrong and what is expected."""

import asyncio
from collections.abc import Mapping
from typing import Final, get_args

import orjson
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc import code_pb2  # type: ignore[import-untyped]

from ..asgi import ClientGoneError, Receive, Scope, Send, headers, read_body, respond
from ..counters import Counters
from ..journal.record import ENCODINGS, Encoding
from ..token import bears
from .cors import Cors
from .endpoints import BY_PATH, UNKNOWN, Endpoint
from .receiver import JSON, PROTOBUF, ROUTED, Media, Received, Receiver, Taken
from .refusal import NO_TOKEN, RETRY_AFTER_S, RefusedError, refusal_of
from .room import Hold

MEDIA: Final[Mapping[str, Media]] = {media: media for media in get_args(Media)}
#: Tells a sender that wants to know: OTLP's answer to a repeat is that to the body.
REPEATED: Final = {"tailbudget-repeated": "true"}
#: A body that takes longer to arrive holds memory that others need.
BODY_WITHIN_S: Final = 30.0


class OtlpApp:
    """Answers POST /v1/traces, /v1/metrics and /v1/logs, in protobuf to protobuf and in JSON to everything else."""

    def __init__(self, receiver: Receiver, *, counters: Counters, token: str | None, cors: Cors) -> None:
        self._receiver = receiver
        self._counters = counters
        self._token = token
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        fields = headers(scope)
        endpoint = BY_PATH.get(scope["path"])
        if scope["method"] == "OPTIONS" and endpoint is not None and (allowed := self._cors.preflight(fields)):
            await respond(send, 204, b"", content_type="text/plain", extra=allowed)
            return
        signal = endpoint.signal if endpoint else UNKNOWN
        extra = self._cors.headers(fields.get(b"origin", b"").decode("latin-1"))
        status = 200
        try:
            taken = await self._taken(scope, receive, fields)
            answer = taken.answer
            extra |= REPEATED if taken.repeated else {}
        except ClientGoneError:
            self._counters.bodies.labels(signal, "client gone").inc()
            return
        except Exception as error:  # noqa: BLE001 - `refusal_of` logs what nobody foresaw
            refusal = refusal_of(error)
            status, answer = refusal.status, refusal.message()
            extra |= getattr(error, "extra", {}) | ({"retry-after": str(RETRY_AFTER_S)} if refusal.retry else {})
            self._counters.dropped(signal, f"http_{status}")
        self._counters.bodies.labels(signal, str(status)).inc()
        content_type = MEDIA.get(_media(fields), JSON)
        await respond(send, status, _written(answer, content_type), content_type=content_type, extra=extra)

    async def _taken(self, scope: Scope, receive: Receive, fields: Mapping[bytes, bytes]) -> Taken:
        endpoint = BY_PATH.get(scope["path"])
        if endpoint is None:
            known = ", ".join(BY_PATH)
            raise RefusedError(404, code_pb2.NOT_FOUND, f"no {scope['path']!r} here: expected one of {known}")
        if scope["method"] != "POST":
            reason = f"{scope['method']} {scope['path']}: expected POST"
            raise RefusedError(405, code_pb2.UNIMPLEMENTED, reason, allow="POST")
        if not bears(fields, self._token):
            raise RefusedError(401, code_pb2.UNAUTHENTICATED, NO_TOKEN, **{"www-authenticate": "Bearer"})
        with self._receiver.room.hold() as hold:
            return await self._receiver.take(await self._read(endpoint, receive, fields, hold), hold)

    async def _read(self, endpoint: Endpoint, receive: Receive, fields: Mapping[bytes, bytes], hold: Hold) -> Received:
        media = MEDIA.get(_media(fields))
        if media is None:
            reason = f"Content-Type {_media(fields)!r}: expected {' or '.join(MEDIA)} (OTEL_EXPORTER_OTLP_PROTOCOL)"
            raise RefusedError(415, code_pb2.INVALID_ARGUMENT, reason)
        encoding = _encoding(fields)
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                data = await read_body(
                    receive,
                    declared=fields.get(b"content-length"),
                    limit=self._receiver.max_body_bytes,
                    took=hold.take,
                )
        except TimeoutError as error:
            reason = f"the body took longer than {BODY_WITHIN_S:g} s to arrive"
            raise RefusedError(408, code_pb2.DEADLINE_EXCEEDED, reason, connection="close") from error
        return Received(endpoint=endpoint, data=data, media=media, encoding=encoding, routed=ROUTED.encode() in fields)


def _media(fields: Mapping[bytes, bytes]) -> str:
    return fields.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()


def _encoding(fields: Mapping[bytes, bytes]) -> Encoding:
    given = fields.get(b"content-encoding", b"").decode("latin-1").strip().lower() or "identity"
    for encoding in ENCODINGS:
        if given == encoding:
            return encoding
    raise RefusedError(415, code_pb2.INVALID_ARGUMENT, f"Content-Encoding {given!r}: expected {' or '.join(ENCODINGS)}")


def _written(answer: Message, media: Media) -> bytes:
    """Return a message as that medium has it."""
    return answer.SerializeToString() if media == PROTOBUF else orjson.dumps(MessageToDict(answer))
