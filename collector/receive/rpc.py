"""OTLP over gRPC: a threaded server whose handlers take raw bytes and hand them to the receiver's event loop."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from google.rpc import code_pb2  # type: ignore[import-untyped]

from tailbudget.instrument.errors import UserError

from ..counters import Counters
from ..servers import bind
from ..tls import Tls
from ..token import bears
from .endpoints import BY_METHOD, UNKNOWN, Endpoint
from .receiver import Received, Receiver
from .refusal import NO_TOKEN, Refusal, refusal_of
from .room import BusyError

#: Each waits for one acknowledgement at a time and may hold one message of the largest size.
THREADS: Final = 8
#: Calls that wait for a thread; beyond it senders are told to come back.
WAITING: Final = 256
#: Streams of one connection; further calls wait at the sender.
STREAMS: Final = 64
#: An acknowledgement takes milliseconds, and two seconds when landing cannot keep up.
ANSWER_WITHIN_S: Final = 20.0
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
#: gRPC tells that a client has left some milliseconds after it refused its message.
LEAVES_WITHIN_S: Final = 1.0
ANY_HOST: Final = "0.0.0.0"  # noqa: S104 - what an empty --host asks for
SETTING: Final = "--grpc or TAILBUDGET_GRPC_PORT"
DETAILS: Final = "grpc-status-details-bin"
NO_MESSAGE: Final = Refusal(status=400, code=code_pb2.INVALID_ARGUMENT, reason="a call without a message: expected one")
STATUSES: Final = {status.value[0]: status for status in grpc.StatusCode}


class GrpcPort:
    """A bound port; `start` begins to answer on it. Raises UserError when the port cannot be had."""

    def __init__(self, host: str, port: int, *, max_body_bytes: int, tls: Tls | None = None) -> None:
        self._pool = _Pool(THREADS)
        self._server = grpc.server(
            self._pool,
            options=[
                ("grpc.so_reuseport", 0),  # else a second collector would share the port
                ("grpc.max_receive_message_length", max_body_bytes),  # unpacked
                ("grpc.max_concurrent_streams", STREAMS),
            ],
        )
        bind(host, port, setting=SETTING).close()  # says why a port cannot be had, which gRPC does not
        address = f"[{host}]:{port}" if ":" in host else f"{host or ANY_HOST}:{port}"
        try:
            if tls is None:
                self._server.add_insecure_port(address)
            else:
                pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
                self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            raise UserError(f"port {port} on {host} cannot be used: choose another with {SETTING}") from error

    def start(self, receiver: Receiver, *, counters: Counters, token: str | None) -> None:
        """Answer calls; to be called on the event loop that takes the bodies."""
        loop = asyncio.get_running_loop()
        self._server.add_generic_rpc_handlers([_Services(self._pool, receiver, counters, token, loop)])
        self._server.start()

    async def stop(self, *, grace_s: float) -> None:
        """Take no more calls, and end those that are not answered within `grace_s`."""
        stopped = self._server.stop(grace_s)
        await asyncio.to_thread(stopped.wait, grace_s + 1)
        self._pool.shutdown(wait=False)


class _Pool(ThreadPoolExecutor):
    """Knows how many calls it was given and has not begun."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="grpc")
        self._lock = threading.Lock()
        self.waiting = 0

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        def begin() -> Any:
            self._count(-1)
            return work(*arguments, **named)

        self._count(1)
        return super().submit(begin)

    def _count(self, change: int) -> None:
        with self._lock:
            self.waiting += change


class _Services(grpc.GenericRpcHandler):
    """Finds the handler of a call. What is refused is refused before its message is read."""

    def __init__(
        self,
        pool: _Pool,
        receiver: Receiver,
        counters: Counters,
        token: str | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._pool = pool
        self._receiver = receiver
        self._counters = counters
        self._token = token
        self._loop = loop
        self._handlers: Final[Mapping[str, Handler]] = {
            method: grpc.stream_unary_rpc_method_handler(self._taker(endpoint))
            for method, endpoint in BY_METHOD.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """Return the handler, None for a method that is not known: UNIMPLEMENTED."""
        endpoint = BY_METHOD.get(handler_call_details.method)
        if endpoint is None:
            self._counters.dropped(UNKNOWN, "http_404")
            return None
        fields = {key.encode(): _raw(value) for key, value in handler_call_details.invocation_metadata}
        if not bears(fields, self._token):
            return self._refusing(endpoint, Refusal(status=401, code=code_pb2.UNAUTHENTICATED, reason=NO_TOKEN))
        if self._pool.waiting >= WAITING:
            return self._refusing(endpoint, refusal_of(BusyError(f"{WAITING} calls are waiting already")))
        return self._handlers[endpoint.method]

    def _taker(self, endpoint: Endpoint) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
        """Return what takes a call's one message, as a stream: of others gRPC does not say that it refused theirs."""

        def take(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            message = self._message(messages, context, endpoint)
            try:
                answer = asyncio.run_coroutine_threadsafe(self._take(endpoint, message), self._loop).result(
                    ANSWER_WITHIN_S
                )
            except Exception as error:  # noqa: BLE001 - `refusal_of` logs what nobody foresaw
                self._refuse(context, endpoint, refusal_of(error))
            self._counters.bodies.labels(endpoint.signal, "OK").inc()
            return answer

        return take

    def _message(self, messages: Iterator[bytes], context: grpc.ServicerContext, endpoint: Endpoint) -> bytes:
        """Return the call's message; counts one that gRPC refused, as over the size limit, or that never came whole."""
        try:
            return next(messages)
        except StopIteration:
            if _is_waited_for(context):
                self._refuse(context, endpoint, NO_MESSAGE)
            self._counters.dropped(endpoint.signal, "unread")
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the message was refused")  # nobody hears it any more
        except Exception:
            self._counters.dropped(endpoint.signal, "unread")
            raise

    async def _take(self, endpoint: Endpoint, message: bytes) -> bytes:
        with self._receiver.room.hold() as hold:
            hold.take(len(message))
            taken = await self._receiver.take(Received(endpoint=endpoint, data=message), hold)
        return taken.answer.SerializeToString()

    def _refusing(self, endpoint: Endpoint, refusal: Refusal) -> Handler:
        def refuse(_messages: object, context: grpc.ServicerContext) -> NoReturn:
            self._refuse(context, endpoint, refusal)

        return grpc.stream_unary_rpc_method_handler(refuse)

    def _refuse(self, context: grpc.ServicerContext, endpoint: Endpoint, refusal: Refusal) -> NoReturn:
        status = STATUSES[refusal.code]
        self._counters.bodies.labels(endpoint.signal, status.name).inc()
        self._counters.dropped(endpoint.signal, f"http_{refusal.status}")
        context.set_trailing_metadata(((DETAILS, refusal.message().SerializeToString()),))
        context.abort(status, refusal.reason)


def _is_waited_for(context: grpc.ServicerContext) -> bool:
    """Return whether the client of a call without a message waits for its answer: where gRPC refused one it has left.

    gRPC may say so a moment after it has said that no message comes.
    """
    give_up_s = time.monotonic() + LEAVES_WITHIN_S
    while context.is_active() and time.monotonic() < give_up_s:
        time.sleep(0.01)
    return bool(context.is_active())


def _raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
