"""Shows a run on the terminal while it goes on: what was sent, percentiles of clocks and of stages."""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, TextIO

from tailbudget.analytics.reader import QueryError, Reader
from tailbudget.instrument.vocabulary import STAGES

from .results import Result, percentiles
from .runner import Runner, Step

#: Results that live percentiles are of.
LATEST: Final = 2000
EVERY_S: Final = {True: 1.0, False: 10.0}
#: Stages are asked for once in so many of our lines: the collector has its own work.
STAGES_EVERY_S: Final = 5.0
RECENT: Final = timedelta(minutes=1)


class Live:
    """Draws lines over each other on a terminal; elsewhere adds one now and then."""

    def __init__(self, out: TextIO, *, run_id: str, reader: Reader | None) -> None:
        self._out = out
        self._run_id = run_id
        self._reader = reader
        self._latest: deque[Result] = deque(maxlen=LATEST)
        self._outcomes: Counter[str] = Counter()
        self._stages: Sequence[dict[str, Any]] = ()
        self._lines = 0

    def keep(self, result: Result) -> None:
        """Take a result."""
        self._latest.append(result)
        self._outcomes[result.outcome] += 1

    async def watch(self, step: Step, runner: Runner) -> None:
        """Draw until cancelled."""
        asked_s, began_s, began = 0.0, asyncio.get_running_loop().time(), datetime.now(UTC)
        self._latest.clear()
        self._outcomes.clear()
        self._stages, self._lines = (), 0
        while True:
            await asyncio.sleep(EVERY_S[self._out.isatty()])
            elapsed_s = asyncio.get_running_loop().time() - began_s
            if self._reader and elapsed_s - asked_s >= STAGES_EVERY_S:
                asked_s = elapsed_s
                since = max(began, datetime.now(UTC) - RECENT)  # of this step alone
                self._stages = await asyncio.to_thread(self._ask, self._reader, since)
            self._draw(self.text(step, elapsed_s=elapsed_s, running=runner.running))

    def text(self, step: Step, *, elapsed_s: float, running: int) -> list[str]:
        """Return what is drawn: a line about the step, one a clock, one a stage."""
        answered = [one for one in self._latest if one.outcome == "ok"]
        told = ", ".join(f"{n:,} {outcome}" for outcome, n in self._outcomes.most_common()) or "nothing ended yet"
        lines = [f"step {step.number}  {offered(step)}  {elapsed_s:,.0f} s  {running:,} running  {told}"]
        clocks: tuple[tuple[str, list[float | None]], ...] = (
            ("total", [one.total_ms for one in answered]),
            ("ttft", [one.ttft_ms for one in answered]),
        )
        lines += [_line(name, percentiles(values)) for name, values in clocks]
        by_stage = {row["stage"]: row for row in self._stages}
        lines += [_line(stage, {"n": by_stage[stage]["n"], **{rank: by_stage[stage][f"{rank}_ms"] for rank in
                  ("p50", "p95", "p99")}}) for stage in STAGES if stage in by_stage]  # fmt: skip
        return [line for line in lines if line]

    def _ask(self, reader: Reader, since: datetime) -> Sequence[dict[str, Any]]:
        try:
            rows: Sequence[dict[str, Any]] = reader.query(_sql(), {"run_id": self._run_id, "since": since}).to_pylist()
        except QueryError:
            return self._stages
        return rows

    def _draw(self, lines: list[str]) -> None:
        if not self._out.isatty():
            lines = [" | ".join(line.strip() for line in lines)]
        up = f"\x1b[{self._lines}F\x1b[J" if self._lines and self._out.isatty() else ""
        self._out.write(up + "".join(f"{line}\n" for line in lines))
        self._out.flush()
        self._lines = len(lines)


def offered(step: Step) -> str:
    """Return a step's load in words."""
    return "as in the trace" if step.offered is None else f"{step.offered:g} {step.unit}"


def _line(name: str, found: dict[str, float]) -> str:
    ranks = "  ".join(f"{rank} {found[rank]:>9,.1f} ms" for rank in ("p50", "p95", "p99") if rank in found)
    return f"  {name:<10}{ranks}  n {found['n']:,.0f}" if found.get("n") else ""


@cache
def _sql() -> str:
    return Path(__file__).with_name("live.sql").read_text(encoding="utf-8")
