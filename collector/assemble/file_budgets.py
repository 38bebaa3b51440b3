"""Budgets that the files of objectives give to requests which bring none of their own."""

import logging
from collections.abc import Callable, Sequence
from typing import Final

import duckdb

from tailbudget.analytics.objectives import Objective
from tailbudget.instrument.vocabulary import STAGES

from .statements import text_of

log: Final = logging.getLogger(__name__)

#: Limits of these are budgets of a request by the same name; other sums of stages are held by their objective alone.
NAMES: Final = ("total", "ttft", "usable", "model", *STAGES)


class FileBudgets:
    """Fills in budgets on one connection, whose table `request` holds the requests of a tick.

    `objectives` gives those that hold now. One whose condition cannot be judged is left out: an alert tells of it.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, objectives: Callable[[], Sequence[Objective]] = tuple
    ) -> None:
        self._connection = connection
        self._objectives = objectives
        self._known: tuple[Objective, ...] = ()
        self._limits: dict[str, list[str]] = {}  # SQL expressions of milliseconds by name of the budget

    def refresh(self) -> None:
        """Take the objectives that hold now; not within a transaction, which a condition that fails would end."""
        objectives = tuple(self._objectives())
        if objectives == self._known:
            return
        self._known, self._limits = objectives, {}
        for objective in objectives:
            for limit in objective.limits if self._judged(objective) else ():
                if limit.measure in NAMES:
                    # An error in one row, such as a cast, must not stop the tick.
                    case = f"try(case when {objective.where or 'true'} then {limit.below_ms!r}::double end)"
                    self._limits.setdefault(limit.measure, []).append(case)

    def apply(self) -> None:
        """Give the requests of this tick the budgets that they lack."""
        if self._limits:
            entries = [f"{{key: '{name}', value: least({', '.join(each)})}}" for name, each in self._limits.items()]
            self._connection.execute(text_of("file_budgets").format(entries=", ".join(entries)))

    def apply_to_running(self) -> None:
        """Give the requests that still run the budget of the total."""
        if total := self._limits.get("total"):
            self._connection.execute(text_of("running_budgets").format(total=", ".join(total)))

    def _judged(self, objective: Objective) -> bool:
        try:
            self._connection.execute(text_of("condition").format(where=objective.where or "true")).fetchall()
        except duckdb.Error as error:
            log.warning("%s gives no budgets: %s", objective.name, str(error).splitlines()[0])
            return False
        return True
