"""Threads that speak to receivers, so that the thread which owns the data file never waits for one."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

from tailbudget.analytics.objectives import Channel
from tailbudget.analytics.objectives.delivery import expand

from .senders import SENDERS, SendError, call

log: Final = logging.getLogger(__name__)

#: Receivers that hang hold up no other until so many do at once; each is left after the senders' time-out.
THREADS: Final = 4
#: A collector ends within 20 s, landing included.
CLOSE_WITHIN_S: Final = 9.0


@dataclass(frozen=True, slots=True)
class Message:
    """What one channel is told at once: the contents of one delivery an alert."""

    message_id: str
    channel: Channel
    grouped_by: str
    alerts: Sequence[Mapping[str, Any]]
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: `error` is null when the receiver took it; `final` errors are not tried again."""

    message: Message
    error: str | None
    final: bool = False


class Courier:
    """Carries messages; what became of them waits in `outcomes`, to be taken by whoever owns the data file."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._under_way: set[str] = set()
        self._outcomes: deque[Outcome] = deque()
        # Daemons: a receiver that answers a byte at a time must not keep the process from ending.
        self._threads = [Thread(target=self._work, name="courier", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    @property
    def under_way(self) -> int:
        """How many messages are being carried."""
        return len(self._under_way) - len(self._outcomes)

    def carries(self, message_id: str) -> bool:
        """Whether the message is under way, or its outcome waits to be taken."""
        return message_id in self._under_way

    def send(self, message: Message) -> None:
        """Carry a message."""
        self._under_way.add(message.message_id)
        self._waiting.put(lambda: self._outcomes.append(deliver(message)))

    def try_out(self, message: Message) -> "Future[Outcome]":
        """Carry a message whose outcome only the caller wants."""
        done: Future[Outcome] = Future()
        self._waiting.put(lambda: done.set_result(deliver(message)))
        return done

    def call(self, url: str) -> None:
        """Call an address once; a failure is only logged."""
        self._waiting.put(lambda: _call(url))

    def outcomes(self) -> list[Outcome]:
        """Return what became of messages since the last call."""
        found = []
        while self._outcomes:
            outcome = self._outcomes.popleft()
            self._under_way.discard(outcome.message.message_id)
            found.append(outcome)
        return found

    def close(self) -> None:
        """Wait a little for what is under way; the rest stays undelivered, and is carried after the next start."""
        with suppress(Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._threads:
            self._waiting.put(None)
        until_s = time.monotonic() + CLOSE_WITHIN_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            work()


def _call(url: str) -> None:
    try:
        call(expand(url))
    except KeyError as missing:
        log.error("no heartbeat: the environment has no %s", missing.args[0])
    except SendError as error:
        log.warning("the heartbeat was not heard: %s", error)


def deliver(message: Message) -> Outcome:
    """Tell a channel once, and return how that ended; secrets are in no error."""
    channel = message.channel
    try:
        fields = channel.expanded()
        SENDERS[channel.type](fields, message.alerts)
    except KeyError as missing:
        return _failed(
            message, f"the environment has no {missing.args[0]}: set it and start the collector anew", final=False
        )
    except SendError as error:
        return _failed(message, str(error), final=error.final)
    except Exception as error:  # noqa: BLE001 - a fault in one sender must not lose the message
        return _failed(message, f"{type(error).__name__}: {error}", final=False)
    log.info("%s was told: %s", channel.name, _headline(message))
    return Outcome(message, None)


def _failed(message: Message, error: str, *, final: bool) -> Outcome:
    for secret, name in message.channel.secrets().items():
        error = error.replace(secret, name)
    log.warning("%s was not told (%s): %s", message.channel.name, error, _headline(message))
    return Outcome(message, error, final)


def _headline(message: Message) -> str:
    return "; ".join(f"{alert['status']} {alert['summary']}" for alert in message.alerts)
