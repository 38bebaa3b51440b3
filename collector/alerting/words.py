"""What alerts about objectives say, in plain words, and how a budget's state is written down."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from tailbudget.analytics.objectives import Objective, burn

from .book import Alarm

KEPT: Final = (
    "part", "n", "bad", "good_share", "budget_left", "hours_left", "burn_1h", "burn_6h", "burn_1d", "burn_3d", "firing",
    "requests", "margin", "running",
)  # fmt: skip


def burning(objective: Objective, alarm: Mapping[str, Any], budget: Mapping[str, Any]) -> Alarm:
    """Return the alarm of a budget that burns: how fast, by which events, what is left."""
    part = alarm["part"]
    name = f"{objective.name} ({part})" if part else objective.name
    events = f"{alarm['bad']} of {alarm['n']} bad ({alarm['rule']})"
    said = [f"{name} burns its budget {alarm['burn']:.1f}x too fast: {events}"]
    left, hours_left = budget.get("budget_left"), budget.get("hours_left")
    if left is not None:
        period = objective.period
        said.append(f"{left * 100:.0f} % of {period} left" if left > 0 else f"the budget of {period} is overspent")
    if hours_left:
        said.append(f"spent in {hours_left:.1f} h")
    said += [*burn.unsure(budget)]
    return _alarm(
        objective, "burn", alarm["severity"], alarm["opened"], "; ".join(said), value=alarm["burn"], part=part
    )


def blind(objective: Objective, *, since: datetime, now: datetime) -> Alarm:
    """Return the alarm of an objective that sees no event although some were expected."""
    silent_min = (now - since).total_seconds() / 60
    said = f"{objective.name}: no event for {silent_min:.0f} min, although some were expected"
    return _alarm(objective, "blind", "page", since, said)


def unjudged(objective: Objective, reason: str, *, now: datetime) -> Alarm:
    """Return the alarm of an objective whose question failed."""
    return _alarm(
        objective, "objectives", "page", now, f"{objective.name} ({objective.place}) cannot be judged: {reason}"
    )


def status(
    objective: Objective,
    row: Mapping[str, Any],
    *,
    now: datetime,
    blind_since: datetime | None,
    coverage: float | None,
) -> dict[str, object]:
    """Return one row of `slo_status`."""
    return {
        **{name: row[name] for name in KEPT},
        **burn.slice_of(objective, row["part"]),
        "objective": objective.name,
        "judged": now,
        "goal": str(objective),
        "target": objective.target,
        "period": str(objective.period),
        "blind_since": blind_since,
        "coverage": coverage,
        "owner": objective.owner or None,
        "runbook": objective.runbook or None,
    }


def _alarm(
    objective: Objective, kind: str, severity: str, opened: datetime, summary: str, *, value: float | None = None,
    part: str = "",
) -> Alarm:  # fmt: skip
    return Alarm(
        kind=kind,
        rule=objective.name,
        severity=severity,
        opened=opened,
        summary=summary,
        value=value,
        threshold=None if value is None else 1.0,
        labels={"objective": objective.name} | ({objective.per: part} if part else {}),
        owner=objective.owner or None,
        runbook=objective.runbook or None,
        degrade_first=objective.degrade_first or None,
        for_s=objective.for_s,
    )
