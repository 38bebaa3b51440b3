"""A request's budget in code: what it and its stages may take, and what happens when they take more."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, TypedDict, Unpack

from .errors import UserError
from .vocabulary import STAGES, TOOL_ROUNDS


class OverBudgetError(TimeoutError):
    """Something took more than its budget; `name` is a stage, `total` or `tool_rounds`.

    `spent` and `budget` are milliseconds, or rounds for `tool_rounds`.
    """

    def __init__(self, name: str, *, spent: float, budget: float) -> None:
        unit = "" if name == TOOL_ROUNDS else " ms"
        super().__init__(f"{name}: {spent:.0f}{unit} of a budget of {budget:.0f}{unit}")
        self.name = name
        self.spent = spent
        self.budget = budget


#: What happens beyond a budget: only the record, an OverBudgetError, or the answer of a function that is given one.
OnOver = Literal["record", "raise"] | Callable[[OverBudgetError], Any]
#: What code can hold to its budget; first tokens and usable answers come when they come.
ENFORCED: Final = ("total", *STAGES, TOOL_ROUNDS)
Policies = OnOver | Mapping[str, OnOver]


class LimitsMs(TypedDict, total=False):
    """What a `Budget` may limit, in milliseconds."""

    total_ms: float
    ttft_ms: float
    usable_ms: float
    network_ms: float
    queue_ms: float
    retrieval_ms: float
    prompt_ms: float
    prefill_ms: float
    decode_ms: float
    model_ms: float
    tools_ms: float
    post_ms: float


class Budget(Mapping[str, float]):
    """Milliseconds by name, and what happens beyond them; fits wherever `budgets_ms` does.

    `on_over` holds for all budgets, or is a mapping by name (`total`, a stage, `tool_rounds`) in which a missing name
    is `record`. `tool_rounds` is how often tools may run one after the other. Raises UserError for what cannot be.
    """

    def __init__(
        self, *, tool_rounds: int | None = None, on_over: Policies = "record", **limits_ms: Unpack[LimitsMs]
    ) -> None:
        for name, value in limits_ms.items():
            if name not in LimitsMs.__annotations__:
                raise UserError(f"Budget: unknown {name!r}: expected one of {', '.join(LimitsMs.__annotations__)}")
            _positive(name, value, "milliseconds, such as 300")
        if tool_rounds is not None:
            _positive("tool_rounds", tool_rounds, "rounds, such as 2")
        _check_policies(on_over)
        given: Mapping[str, Any] = limits_ms
        self._limits_ms = {name.removesuffix("_ms"): float(value) for name, value in given.items()}
        self.tool_rounds = tool_rounds
        self.on_over = on_over

    def __getitem__(self, name: str) -> float:
        return self._limits_ms[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._limits_ms)

    def __len__(self) -> int:
        return len(self._limits_ms)

    def __repr__(self) -> str:
        limits = ", ".join(f"{name}_ms={limit_ms:g}" for name, limit_ms in self._limits_ms.items())
        return f"Budget({limits}, tool_rounds={self.tool_rounds}, on_over={self.on_over!r})"


def policy_for(policies: Policies, name: str) -> OnOver:
    """Return what happens when `name` is over."""
    return policies.get(name, "record") if isinstance(policies, Mapping) else policies


def _check_policies(on_over: Policies) -> None:
    for policy in on_over.values() if isinstance(on_over, Mapping) else (on_over,):
        if policy not in ("record", "raise") and not callable(policy):
            raise UserError(f"Budget: on_over is {policy!r}: expected 'record', 'raise' or a function")
    for name in on_over if isinstance(on_over, Mapping) else ():
        if name not in ENFORCED:
            raise UserError(f"Budget: on_over has {name!r}: expected one of {', '.join(ENFORCED)}")


def is_positive(value: object) -> bool:
    """Say whether `value` is a finite number above 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _positive(name: str, value: object, expected: str) -> None:
    if not is_positive(value):
        raise UserError(f"Budget: {name} is {value!r}: expected a positive number of {expected}")
