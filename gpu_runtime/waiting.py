"""The order of those that wait: preempted first, then by priority, then tenants in turn by what each was served."""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .tenants import Tenant

if TYPE_CHECKING:
    from .scheduler import Generation

#: Tokens of credit that a tenant of weight 1 gets a round: few, so that tenants alternate.
QUANTUM_TOKENS = 16


class Waiting:
    """Deficit round robin (Shreedhar and Varghese, 1995) over tenants, first come first within each.

    A tenant is served while it has credit and may overdraw it, since nobody knows how long an answer will be; it then
    waits until rounds have paid its debt. When nobody waits, nobody was kept waiting: all debts end.
    """

    def __init__(self) -> None:
        self._back: deque[Generation] = deque()
        self._levels: dict[int, dict[Tenant, deque[Generation]]] = {}
        self._credit: dict[Tenant, float] = {}

    def __len__(self) -> int:
        return len(self._back) + sum(len(line) for level in self._levels.values() for line in level.values())

    def __iter__(self) -> Iterator["Generation"]:
        yield from self._back
        for _, level in sorted(self._levels.items()):
            for line in level.values():
                yield from line

    def add(self, generation: "Generation") -> None:
        """Queue a generation behind those of its tenant and priority."""
        level = self._levels.setdefault(generation.priority, {})
        level.setdefault(generation.tenant, deque()).append(generation)

    def put_back(self, generation: "Generation") -> None:
        """Queue one that ran already and gave way: before all others."""
        self._back.appendleft(generation)

    def first(self) -> "Generation | None":
        """Return whose turn it is; the same one until it is removed."""
        if self._back:
            return self._back[0]
        if not self._levels:
            self._credit.clear()
            return None
        level = self._levels[min(self._levels)]
        while True:
            tenant = next(iter(level))
            if self._credit.get(tenant, 0.0) >= 0:
                return level[tenant][0]
            self._credit[tenant] += QUANTUM_TOKENS * tenant.weight
            level[tenant] = level.pop(tenant)

    def charge(self, tenant: Tenant, tokens: int) -> None:
        """Book tokens that were computed for a tenant; free of charge while nobody waits."""
        if self._levels:
            self._credit[tenant] = self._credit.get(tenant, 0.0) - tokens

    def remove(self, generation: "Generation") -> None:
        """Take a generation out, because it runs or has ended."""
        if generation in self._back:
            self._back.remove(generation)
            return
        level = self._levels[generation.priority]
        level[generation.tenant].remove(generation)
        if not level[generation.tenant]:
            del level[generation.tenant]
        if not level:
            del self._levels[generation.priority]
