"""Finds the knee: the highest of some loads at which every objective holds, by halving."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from .session import Stepped


@dataclass(frozen=True)
class Knee:
    """`load` is the highest that held, `beyond` the lowest above it that did not; None where there is none."""

    load: float | None
    beyond: float | None


async def sweep(loads: Sequence[float], run: Callable[[float], Awaitable[Stepped]], *, every: bool = False) -> Knee:
    """Return the knee among ascending `loads`, trying the lowest, the highest, then halves; with `every` all of them.

    A load holds when no objective fails on it. Halving takes for granted that what breaks at one load breaks above it.
    """
    held: dict[float, bool] = {}

    async def holds(load: float) -> bool:
        if load not in held:
            held[load] = (await run(load)).holds is not False
        return held[load]

    if every:
        for load in loads:
            await holds(load)
    elif await holds(loads[0]) and not await holds(loads[-1]):
        low, high = 0, len(loads) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if await holds(loads[middle]) else (low, middle)
    beyond = min((load for load, good in held.items() if not good), default=None)
    good_below = [load for load, good in held.items() if good and (beyond is None or load < beyond)]
    return Knee(max(good_below, default=None), beyond)
