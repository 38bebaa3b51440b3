"""Which 64-bit keys were seen lately, at 8 bytes a key."""

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]

#: A run holds at most this share of the time and of the number that are kept, so that keys expire in steps of it.
STEPS: Final = 12


@dataclass(frozen=True, slots=True)
class _Run:
    first_s: float  # when its oldest and newest key came
    last_s: float
    keys: Keys  # sorted


class RecentKeys:
    """A set of keys that forgets those older than `keep_s`, and the oldest beyond `limit`.

    Keys lie in sorted runs; equal-sized neighbours are merged, as in a log-structured merge tree. Two different
    records share a key with a chance of about 1e-12 at 10 M keys.
    """

    def __init__(self, *, keep_s: float, limit: int, clock: Callable[[], float] = time.time) -> None:
        self._keep_s = keep_s
        self._limit = limit
        self._longest = max(limit // STEPS, 1)
        self._clock = clock
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run.keys) for run in self._runs)

    def __contains__(self, key: int) -> bool:
        # As fast as `searchsorted`, which would give Python's lock away and wait for it again, a run at a time.
        views = (run.keys.data for run in self._runs)
        return any((at := bisect_left(keys, key)) < len(keys) and keys[at] == key for keys in views)

    def known(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Return for each key whether it is in the set."""
        answer = np.zeros(len(keys), np.bool_)
        for run in self._runs:
            at = np.searchsorted(run.keys, keys)
            at[at == len(run.keys)] = 0
            answer |= run.keys[at] == keys
        return answer

    def add(self, keys: Keys, *, at_s: float | None = None) -> None:
        """Take the keys in as seen now, or at the unix time `at_s`, which must not lie before that of earlier ones."""
        now = self._clock()
        if len(keys):
            at_s = now if at_s is None else at_s
            for first in range(0, len(keys), self._longest):
                self._runs.append(_Run(at_s, at_s, np.sort(keys[first : first + self._longest])))
                self._merge()
        while self._runs and (self._runs[0].last_s < now - self._keep_s or len(self) > self._limit):
            del self._runs[0]

    def _merge(self) -> None:
        while len(self._runs) > 1:
            older, newer = self._runs[-2:]
            too_long = len(older.keys) + len(newer.keys) > self._longest
            if too_long or len(older.keys) > 2 * len(newer.keys) or newer.last_s - older.first_s > self._keep_s / STEPS:
                return
            keys = np.sort(np.concatenate([older.keys, newer.keys]), kind="stable")  # two sorted runs: radix or merge
            self._runs[-2:] = [_Run(older.first_s, newer.last_s, keys)]
