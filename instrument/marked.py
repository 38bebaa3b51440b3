"""Paths that are marked as requests, each with its budgets."""

import re
from collections.abc import Mapping

from .budget import is_positive
from .errors import UserError
from .request import BudgetsMs
from .vocabulary import budget_attribute

EXAMPLE = "{'/chat': {'total': 2500}}"


class Marks:
    """Which paths are requests, and their budgets in milliseconds by name.

    Raises UserError for a budget that does not exist or is no positive number.
    """

    def __init__(self, budgets_ms: Mapping[str, BudgetsMs]) -> None:
        if not isinstance(budgets_ms, Mapping):
            raise UserError(f"budgets_ms is {budgets_ms!r}: expected paths and their budgets, such as {EXAMPLE}")
        self._exact = dict(budgets_ms)
        for path, budgets in self._exact.items():
            _check(path, budgets)
        self._patterns = [(_pattern(path), path) for path in self._exact if "{" in path]

    def of(self, path: str) -> tuple[str | None, BudgetsMs]:
        """Return the route and budgets of a path, None and none for one that is not marked."""
        if path in self._exact:
            return path, self._exact[path]
        for pattern, route in self._patterns:
            if pattern.fullmatch(path):
                return route, self._exact[route]
        return None, {}


def _check(path: object, budgets: object) -> None:
    if not isinstance(path, str) or not isinstance(budgets, Mapping):
        raise UserError(f"budgets_ms has {path!r}: {budgets!r}: expected a path and its budgets, such as {EXAMPLE}")
    for name, budget_ms in budgets.items():
        try:
            budget_attribute(name)
        except ValueError as error:
            raise UserError(f"budgets_ms[{path!r}]: {error}") from None
        if not is_positive(budget_ms):
            raise UserError(
                f"budgets_ms[{path!r}][{name!r}] is {budget_ms!r}: expected a positive number of milliseconds, "
                "such as 4000; leave the name out where there is no budget"
            )


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{[^}]*\}", path)
    return re.compile("[^/]+".join(re.escape(part) for part in parts))
