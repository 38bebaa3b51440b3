"""Who may ask, how much, and with which weight: API keys from a file, and what each tenant has left of its quota."""

import hashlib
import math
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailbudget.instrument.errors import UserError

MINUTE_S = 60.0
#: Setting of a tenant -> smallest and largest value.
LIMITS: dict[str, tuple[float, float]] = {
    "weight": (0.01, 1000),
    "priority": (-100, 100),
    "requests_per_minute": (1, 1e9),
    "tokens_per_minute": (1, 1e12),
}


@dataclass(frozen=True)
class Tenant:
    """A caller's share: `weight` beside others of its `priority` (the lowest goes first), and its limits a minute."""

    name: str = ""
    weight: float = 1.0
    priority: int = 0
    requests_per_minute: float = math.inf
    tokens_per_minute: float = math.inf

    def __hash__(self) -> int:
        # Once a token, where somebody waits: five fields took a tenth of the scheduler's time.
        return hash(self.name)


#: Who asks where no keys are known.
ANYBODY = Tenant()


@dataclass
class _Bucket:
    """A minute's worth that refills steadily; spending may go below zero, then nothing is allowed until it is paid."""

    per_minute: float
    at_s: float
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.per_minute

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until one may be spent, 0 for at once."""
        if math.isinf(self.per_minute):
            return 0.0
        rate = self.per_minute / MINUTE_S
        self.left = min(self.per_minute, self.left + (now_s - self.at_s) * rate)
        self.at_s = now_s
        return max(0.0, 1.0 - self.left) / rate

    def spend(self, amount: float) -> None:
        """Take an amount."""
        self.left -= amount


class Quota:
    """What one tenant has left. Tokens are those of prompts and answers, an answer's once it is over."""

    def __init__(self, tenant: Tenant, *, now_s: float) -> None:
        self._requests = _Bucket(tenant.requests_per_minute, now_s)
        self._tokens = _Bucket(tenant.tokens_per_minute, now_s)

    def wait_s(self, now_s: float) -> float:
        """Return in how many seconds a request may come, 0 for now."""
        return max(self._requests.wait_s(now_s), self._tokens.wait_s(now_s))

    def spend(self, *, requests: int = 0, tokens: int = 0) -> None:
        """Book what was used."""
        self._requests.spend(requests)
        self._tokens.spend(tokens)


def load(path: Path) -> dict[str, Tenant]:
    """Return the tenant of each key's SHA-256 digest; UserError names what is wrong with the file.

    The file is TOML: `[tenants.NAME]` with `keys`, and what LIMITS lists. A key is its text or `sha256:` and a digest.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the file of API keys {str(path)!r} cannot be read: {error}") from error
    tenants = found.get("tenants")
    if not isinstance(tenants, dict) or found.keys() != {"tenants"}:
        raise UserError(f'{path} is not understood: expected tables [tenants.NAME], each with keys = ["..."]')
    by_digest: dict[str, Tenant] = {}
    for name, given in tenants.items():
        tenant = _tenant(name, given, path)
        for key in given["keys"]:
            if by_digest.setdefault(_digest(key), tenant) is not tenant:
                raise UserError(f"{path}: a key of {name!r} is also one of {by_digest[_digest(key)].name!r}")
    return by_digest


def of_key(tenants: dict[str, Tenant], key: str) -> Tenant | None:
    """Return whose key it is, None where it is nobody's. Digests are looked up, so timing tells nothing of a key."""
    return tenants.get(hashlib.sha256(key.encode()).hexdigest())


def _tenant(name: str, given: Any, path: Path) -> Tenant:
    keys = given.get("keys") if isinstance(given, dict) else None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key for key in keys):
        raise UserError(f'{path}: tenant {name!r} has no keys: expected keys = ["..."]')
    for setting, value in given.items():
        if setting == "keys":
            continue
        if setting not in LIMITS:
            raise UserError(f"{path}: tenant {name!r} has {setting!r}: expected keys, {', '.join(LIMITS)}")
        low, high = LIMITS[setting]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise UserError(f"{path}: {setting} of {name!r} is {value!r}: expected {low:g} to {high:g}")
    return Tenant(name, **{setting: value for setting, value in given.items() if setting != "keys"})


def _digest(key: str) -> str:
    prefix, _, digest = key.partition(":")
    if prefix == "sha256" and re.fullmatch("[0-9a-f]{64}", digest):
        return digest
    return hashlib.sha256(key.encode()).hexdigest()
