"""Lets callers in by their API key, while the quota of its tenant lasts."""

import math
from pathlib import Path

from .messages import RequestError
from .scheduler import Generation
from .tenants import ANYBODY, Quota, Tenant, load, of_key

#: The most that a client is told to wait.
MOST_RETRY_S = 60


class Doors:
    """Lets callers in by their key, while their quota lasts; without a file of keys everybody is one tenant."""

    def __init__(self, api_keys: str) -> None:
        self._tenants = load(Path(api_keys)) if api_keys else None
        self._quotas: dict[str, Quota] = {}

    def caller(self, authorization: str, *, now_s: float) -> Tenant:
        """Return the tenant; RequestError 401 or 429."""
        if self._tenants is None:
            return ANYBODY
        scheme, _, key = authorization.partition(" ")
        tenant = of_key(self._tenants, key.strip()) if scheme.lower() == "bearer" else None
        if tenant is None:
            raise RequestError("no known API key in the header Authorization", status=401, code="invalid_api_key")
        quota = self._quotas.setdefault(tenant.name, Quota(tenant, now_s=now_s))
        if wait_s := quota.wait_s(now_s):
            message = f"the quota of {tenant.name!r} is used up: {_limits(tenant)} a minute"
            raise RequestError(message, status=429, code="rate_limit_exceeded", retry_s=whole_s(wait_s))
        return tenant

    def spent(self, generation: Generation, *, requests: int = 0, tokens: int = 0) -> None:
        """Book what a generation used."""
        if quota := self._quotas.get(generation.tenant.name):
            quota.spend(requests=requests, tokens=tokens)


def _limits(tenant: Tenant) -> str:
    limits = {"requests": tenant.requests_per_minute, "tokens": tenant.tokens_per_minute}
    return " and ".join(f"{limit:g} {name}" for name, limit in limits.items() if math.isfinite(limit))


def whole_s(seconds: float) -> int:
    """Return a wait as the header Retry-After says it."""
    return max(1, min(MOST_RETRY_S, math.ceil(seconds)))
