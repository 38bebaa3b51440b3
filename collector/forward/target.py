"""One endpoint that bodies are passed on to: a bounded queue, a thread that sends, and what became of each body."""

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from typing import Final

from ..counters import Counters
from ..receive.receiver import Received
from .address import Address

log: Final = logging.getLogger(__name__)

#: OTLP's list: everything else is refused for good.
RETRYABLE: Final = frozenset({429, 502, 503, 504})
ANSWER_WITHIN_S: Final = 10.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
#: A body that was not taken for so long is given up: the queue behind it is newer.
GIVE_UP_AFTER_S: Final = 300.0
#: At the end, what is queued has this long to leave.
CLOSE_WITHIN_S: Final = 1.0


class Target:
    """Sends bodies oldest first, each until it is taken, refused for good or given up."""

    def __init__(self, address: Address, *, headers: Mapping[str, str], queue_bytes: int, counters: Counters) -> None:
        self._address = address
        self._headers = dict(headers)
        if address.authorization is not None:
            self._headers["Authorization"] = address.authorization
        self._queue_bytes = queue_bytes
        self._counters = counters
        self._lock = threading.Condition()
        self._queue: deque[Received] = deque()
        self._held = 0
        self._close_by_s: float | None = None  # monotonic
        self._over = threading.Event()
        self._connection = address.connection(timeout_s=ANSWER_WITHIN_S)
        self._failing = False
        counters.forward_queue.labels(address.name).set_function(lambda: self._held)
        # A daemon: looking up a name cannot be interrupted, and nothing here has to be kept.
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)
        self._thread.start()

    def offer(self, received: Received) -> None:
        """Queue the body, or drop and count it when the queue is full."""
        with self._lock:
            full = self._held + len(received.data) > self._queue_bytes
            if not full and self._close_by_s is None:
                self._held += len(received.data)
                self._queue.append(received)
                self._lock.notify()
                return
        self._dropped("queue_full" if full else "shutdown")

    def close(self) -> None:
        """Send what is queued for at most a second, then end, also in the middle of an answer that does not come."""
        with self._lock:
            self._close_by_s = time.monotonic() + CLOSE_WITHIN_S
            self._lock.notify()
        self._thread.join(CLOSE_WITHIN_S)
        self._over.set()
        with suppress(OSError, AttributeError):  # nothing is open, or it is being closed there
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(CLOSE_WITHIN_S)
        self._dropped("shutdown", len(self._queue))

    def _run(self) -> None:
        while (received := self._next()) is not None:
            outcome = self._send(received)
            if outcome == "shutdown":
                break  # `close` counts it with the rest
            with self._lock:
                self._queue.popleft()
                self._held -= len(received.data)
            if outcome:
                self._dropped(outcome)
            else:
                self._counters.forwarded.labels(self._address.name).inc()
        self._connection.close()

    def _next(self) -> Received | None:
        """Return the oldest body, which stays in the queue; None when it is over."""
        with self._lock:
            self._lock.wait_for(lambda: self._queue or self._close_by_s is not None)
            return self._queue[0] if self._queue and not self._over.is_set() else None

    def _send(self, received: Received) -> str:
        """Return why the body was dropped, "" when it was taken."""
        began_s = time.monotonic()
        pause_s = FIRST_PAUSE_S
        while True:
            status, asked_s, fault = self._post(received)
            if 200 <= status < 300:
                self._recovered()
                return ""
            if status and status not in RETRYABLE:
                self._complain(f"answered {status}: {fault}")
                return f"http_{status}"
            self._complain(f"answered {status}: {fault}" if status else fault)
            pause_s = min(max(pause_s, asked_s), LONGEST_PAUSE_S)
            if time.monotonic() + pause_s - began_s > GIVE_UP_AFTER_S:
                return "gave_up"
            if self._close_by_s is not None or not self._pause(pause_s):
                return "shutdown"
            pause_s *= 2

    def _pause(self, seconds: float) -> bool:
        """Wait; return whether to go on."""
        with self._lock:
            return not self._lock.wait_for(lambda: self._close_by_s is not None, timeout=seconds)

    def _post(self, received: Received) -> tuple[int, float, str]:
        """Return the status (0 without an answer), the seconds that it asks to wait, and what went wrong."""
        headers = {**self._headers, "Content-Type": received.media}
        if received.encoding != "identity":
            headers["Content-Encoding"] = received.encoding
        try:
            path = self._address.path + received.endpoint.path
            self._connection.request("POST", path, received.data, headers)
            answer = self._connection.getresponse()
            said = answer.read()
        except (OSError, HTTPException) as error:
            self._connection.close()
            return 0, 0.0, f"{type(error).__name__}: {error}"
        asked = answer.headers.get("Retry-After", "")
        return answer.status, float(asked) if asked.isdecimal() else 0.0, said[:200].decode(errors="replace")

    def _dropped(self, reason: str, bodies: int = 1) -> None:
        self._counters.forward_dropped.labels(self._address.name, reason).inc(bodies)

    def _complain(self, what: str) -> None:
        """Say it once, until the target takes a body again."""
        if not self._failing:
            log.warning("%s does not take what is passed on to it (%s)", self._address.name, what)
            self._failing = True

    def _recovered(self) -> None:
        if self._failing:
            log.info("%s takes bodies again", self._address.name)
            self._failing = False
