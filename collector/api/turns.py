"""Whose turn it is to ask the database: questions that are known to be short do not wait for long ones."""

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Final

#: Questions at once, and how many of them may be long.
SLOTS: Final = 3
LONG_SLOTS: Final = 2
#: CPU time below which a question is short: most of a page's are, the longest take ten times as much.
SHORT_S: Final = 0.02
#: A long question that has waited so long goes before short ones.
PATIENCE_S: Final = 0.5
#: Questions that differ in such values alone are one to `Costs`; longer ones are not looked at.
LITERAL: Final = re.compile(r"'(?:[^']|'')*'|\b\d+(?:\.\d+)?\b")
MOST_CHARS: Final = 16_384
KNOWN: Final = 2_048
#: So much of what a question took is still expected of it after it took less: its values may be larger again.
REMEMBERED: Final = 0.7


class BusyError(Exception):
    """No turn came in time."""


class Costs:
    """What questions took lately; several threads may tell."""

    def __init__(self) -> None:
        self._took_s: dict[str, float] = {}

    def is_short(self, sql: str) -> bool:
        """Return whether a question of this shape was asked lately and took little; one that is new may be long."""
        return len(sql) <= MOST_CHARS and self._took_s.get(_shape(sql), SHORT_S) < SHORT_S

    def took(self, sql: str, cpu_s: float) -> None:
        """Remember what a question took."""
        if len(sql) > MOST_CHARS:
            return
        if len(self._took_s) >= KNOWN:
            self._took_s.clear()  # what is still asked is soon known again
        shape = _shape(sql)
        self._took_s[shape] = max(cpu_s, REMEMBERED * self._took_s.get(shape, 0.0))


@lru_cache(256)
def _shape(sql: str) -> str:
    return LITERAL.sub("?", sql)


class Turns:
    """Gives turns in the order of asking, short questions first; used on one event loop."""

    def __init__(self) -> None:
        # By whether they are short: since when each waits, and what tells it that its turn has come.
        self._waiting: dict[bool, deque[tuple[float, asyncio.Future[None]]]] = {True: deque(), False: deque()}
        self._running = {True: 0, False: 0}
        self._idle = asyncio.Event()
        self._idle.set()
        self._alone = asyncio.Lock()
        self._closed = 0  # how many want to be alone

    @asynccontextmanager
    async def turn(self, *, short: bool, within_s: float) -> AsyncIterator[None]:
        """Hold a turn. Raises BusyError when none comes in time."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[short].append((time.monotonic(), ready))
        self._call()
        try:
            try:
                async with asyncio.timeout(within_s):
                    await ready
            except TimeoutError as error:
                busy = sum(self._running.values())
                raise BusyError(f"{busy} queries run already, none ended within {within_s:g} s") from error
            yield
        finally:
            ready.cancel()
            if not ready.cancelled():  # its turn had come
                self._running[short] -= 1
            self._call()

    @asynccontextmanager
    async def alone(self, *, within_s: float) -> AsyncIterator[None]:
        """Hold the only turn: wait until none is held, and let none begin meanwhile. Raises BusyError."""
        self._closed += 1
        try:
            async with asyncio.timeout(within_s) as limit, self._alone:
                await self._idle.wait()
                limit.reschedule(None)
                yield
        except TimeoutError as error:
            raise BusyError(f"queries still run after {within_s:g} s") from error
        finally:
            self._closed -= 1
            self._call()

    def _call(self) -> None:
        """Tell those whose turn it is."""
        while (short := self._next()) is not None:
            self._running[short] += 1
            self._waiting[short].popleft()[1].set_result(None)
        if any(self._running.values()):
            self._idle.clear()
        else:
            self._idle.set()

    def _next(self) -> bool | None:
        """Return whether the next to begin is a short question, None when none may begin."""
        for queue in self._waiting.values():
            while queue and queue[0][1].done():  # it gave up
                queue.popleft()
        if self._closed or sum(self._running.values()) >= SLOTS:
            return None
        short, long = self._waiting[True], self._waiting[False]
        if long and self._running[False] < LONG_SLOTS:
            return bool(short) and time.monotonic() - long[0][0] < PATIENCE_S
        return True if short else None
