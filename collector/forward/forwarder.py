"""Offers every accepted body to every target."""

import threading
from collections.abc import Mapping, Sequence

from ..counters import Counters
from ..receive.receiver import Received
from .address import Address
from .target import Target


class Forwarder:
    """One queue and one thread a target, so that none of them waits for another; `offer` never waits at all."""

    def __init__(
        self, addresses: Sequence[Address], *, headers: Mapping[str, str], queue_bytes: int, counters: Counters
    ) -> None:
        self._targets = [
            Target(address, headers=headers, queue_bytes=queue_bytes, counters=counters) for address in addresses
        ]

    def offer(self, received: Received) -> None:
        """Queue the body for every target; a target whose queue is full loses it, which is counted."""
        for target in self._targets:
            target.offer(received)

    def close(self) -> None:
        """Give every target a moment to take what is queued, drop and count the rest, and end the threads."""
        closing = [threading.Thread(target=target.close) for target in self._targets]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
