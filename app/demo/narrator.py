"""Tells on the terminal what the collector has found: violations by blamed stage, sag alerts, a line every 30 s."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow as pa

from tailbudget.analytics.overview import alerts, latency_summary
from tailbudget.analytics.reader import ApiReader, QueryError, Reader
from tailbudget.analytics.violations import violations_by_stage
from tailbudget.analytics.window import Window

POLL_S = 2.0
SUMMARY_EVERY_S = 30.0


class Counts(Protocol):
    """How the clients fared so far."""

    answered: int
    left: int
    failed: int


class Narrator:
    """Prints lines that begin with the seconds since its creation."""

    def __init__(self, api: str) -> None:
        self._reader = ApiReader(api, timeout_s=5)
        self._began = time.monotonic()
        self._since = datetime.now(UTC)
        self._known: dict[str, object] = {}

    def elapsed_s(self) -> float:
        """Return the seconds since the first answered request."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Print one line."""
        print(f"{self.elapsed_s():5.0f} s  {text}", flush=True)

    async def watch(self, counts: Counts) -> None:
        """Tell news every 2 s and a summary every 30 s, for ever; a collector that does not answer is told once."""
        next_summary_s = SUMMARY_EVERY_S
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._tell_news()
                if self.elapsed_s() >= next_summary_s:
                    next_summary_s += SUMMARY_EVERY_S
                    await self._tell_summary(counts)
            except QueryError as error:
                self._once("unanswered", "told", f"the collector does not answer: {error}")

    async def _tell_news(self) -> None:
        for row in await self._ask(violations_by_stage):
            stage, n, over_ms = row["stage"], row["n"], row["over_p50_ms"]
            requests = "request" if n == 1 else "requests"
            # A line for each doubling, so that an incident is told a few times and not with every request.
            text = f"{n} {requests} over budget, {stage} to blame ({over_ms:,.0f} ms over at the median)"
            self._once(f"over {stage}", int(n).bit_length(), text)
        for row in await self._ask(alerts):
            state = "closed" if row["closed"] else "opened"
            self._once(f"alert {row['alert_id']}", state, f"{row['kind']} alert {state}: {row['summary']}")

    async def _tell_summary(self, counts: Counts) -> None:
        (row,) = await self._ask(latency_summary)
        if row["n"]:
            p50, p95, p99 = (f"{row[name] / 1e3:.1f} s" for name in ("p50_ms", "p95_ms", "p99_ms"))
            good = f"{row['good']} of {row['counted']} good, {row['dropped']} dropped"
            told = f"{counts.left} clients left, {counts.failed} failed"
            self.say(f"{row['n']} requests: p50 {p50}, p95 {p95}, p99 {p99}; {good}; {told}")

    async def _ask(self, question: Callable[[Reader, Window], pa.Table]) -> list[dict[str, Any]]:
        window = Window(self._since, datetime.now(UTC))
        table = await asyncio.to_thread(question, self._reader, window)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def _once(self, key: str, state: object, text: str) -> None:
        if self._known.get(key) != state:
            self._known[key] = state
            self.say(text)
