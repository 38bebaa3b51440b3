"""Breaks a part of the system amid a step, mends it again, and says how requests fared before, then and after."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tailbudget.instrument.errors import UserError

from .results import Result, answered, percentiles

#: Parts of a step: the last third is when all should be well again.
PHASES = ("before", "during", "after")


@dataclass(frozen=True)
class Disruption:
    """Two command lines: `breaks` runs after a third of a step, `mends` after two thirds."""

    breaks: str
    mends: str

    async def run(self, lasts_s: float) -> None:
        """Run both at their times; raises UserError for a command that fails. Cancelled before its time it mends."""
        await asyncio.sleep(lasts_s / 3)
        await _shell(self.breaks)
        try:
            await asyncio.sleep(lasts_s / 3)
        finally:
            await _shell(self.mends)


async def _shell(line: str) -> None:
    sys.stderr.write(f"running {line!r}\n")
    process = await asyncio.create_subprocess_shell(line, stdout=asyncio.subprocess.DEVNULL)
    if status := await process.wait():
        raise UserError(f"{line!r} ended with status {status}: --break and --mend take commands that succeed")


def phases(results: Sequence[Result], *, lasts_s: float) -> dict[str, dict[str, Any]]:
    """Return n, the requests that failed, and percentiles of the others' total, for each third of the planned times."""
    first_ns = min((one.planned_ns for one in results), default=0)
    found: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(PHASES):
        mine = [one for one in results if min(int((one.planned_ns - first_ns) / 1e9 / lasts_s * 3), 2) == place]
        failed = sum(one.outcome not in ("ok", "left") for one in mine)
        found[name] = {
            "n": len(mine),
            "failed": failed,
            "total_ms": percentiles(one.total_ms for one in answered(mine)),
        }
    return found
