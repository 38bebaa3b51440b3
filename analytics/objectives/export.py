"""Objectives for those who keep Prometheus and Grafana: rules and a dashboard over the collector's `/metrics`."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import yaml

from .burn import CAP, LEAST_BAD, LIKELIER, RULES, SPENT, Rule
from .model import DAY_S, Objective

EVENTS: Final = "tailbudget_slo_events_total"
BAD: Final = "tailbudget_slo_bad_total"
BY: Final = "sum by (objective, part)"
WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
#: Grafana's grid is 24 wide.
HALF: Final = 12
HEIGHT: Final = 8


def prometheus(objectives: Sequence[Objective]) -> str:
    """Return a file of recording and alerting rules: a group an objective, with the burn rules of the collector.

    The rules of few requests stay with the collector: Prometheus has counts a time, no events, and nothing that lasts.
    """
    groups = [
        {"name": f"tailbudget {one.name}", "rules": [*_recorded(one), *_alerts(one)]} for one in objectives
    ]  # fmt: skip
    text: str = yaml.safe_dump({"groups": groups}, sort_keys=False, width=1000)
    return text


def _recorded(one: Objective) -> Iterator[dict[str, Any]]:
    for window in WINDOWS:
        yield {
            "record": f"slo:error_ratio:rate{window}",
            "expr": _ratio(one, window),
            "labels": {"objective": one.name},
        }
    period = f"{one.period.days}d"
    left = f"1 - ({_ratio(one, period)}) / {1 - one.target:.9g}"
    yield {"record": "slo:budget_left:ratio", "expr": left, "labels": {"objective": one.name}}


def _ratio(one: Objective, window: str) -> str:
    selected = f"{{objective={json.dumps(one.name)}}}[{window}]"
    return f"{BY} (increase({BAD}{selected})) / ({BY} (increase({EVENTS}{selected})) > 0)"


def _alerts(one: Objective) -> Iterator[dict[str, Any]]:
    named = f"{{objective={json.dumps(one.name)}}}"
    for rule in RULES:
        limit = f"{threshold(one, rule):.9g}"
        notes = {
            "summary": f"{one.name} burns its budget ({rule.name}): {{{{ $value | humanizePercentage }}}} bad",
            "description": f"{one}, over {one.period}",
            "runbook_url": one.runbook,
        }
        yield {
            "alert": "TailbudgetBurn",
            "expr": (
                f"slo:error_ratio:rate{rule.long}{named} >= {limit} "
                f"and slo:error_ratio:rate{rule.short}{named} >= {limit} "
                f"and {BY} (increase({BAD}{named}[{rule.long}])) >= {LEAST_BAD}{_evidence(one, rule)}"
            ),
            "labels": {"severity": rule.severity, "rule": rule.name, "objective": one.name}
            | ({"owner": one.owner} if one.owner else {}),
            "annotations": {name: note for name, note in notes.items() if note},
        }


def _evidence(one: Objective, rule: Rule) -> str:
    """Return the condition that what pages is no chance (`odds` of `burn.sql`); nothing for a ticket."""
    if rule.severity != "page":
        return ""
    named, well = f"{{objective={json.dumps(one.name)}}}", SPENT * (1 - one.target)
    share, n = f"slo:error_ratio:rate{rule.long}{named}", f"{BY} (increase({EVENTS}{named}[{rule.long}]))"
    good = f"(1 - {share}) * ln(clamp_min(1 - {share}, 1e-9) / {1 - well:.9g})"
    return f" and {n} * ({share} * ln({share} / {well:.9g}) + {good}) >= {math.log(LIKELIER):.9g}"


def threshold(one: Objective, rule: Rule) -> float:
    """Return the share of bad events at which a rule fires."""
    return min(rule.factor(one.period.days * DAY_S) * (1 - one.target), CAP)


def grafana(objectives: Sequence[Objective]) -> dict[str, Any]:
    """Return a dashboard: budget left and burn of each objective, over the rules of `prometheus`."""
    panels = [panel for row, one in enumerate(objectives) for panel in _panels(one, y=row * HEIGHT)]
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "title": "tailbudget: error budgets",
        "uid": "tailbudget-slo",
        "schemaVersion": 39,
        "tags": ["tailbudget", "slo"],
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "1m",
        "templating": {"list": [source]},
        "panels": panels,
    }


def _panels(one: Objective, *, y: int) -> Iterator[dict[str, Any]]:
    named = f"{{objective={json.dumps(one.name)}}}"
    red_below_zero = {"mode": "absolute", "steps": [{"color": "red", "value": None}, {"color": "green", "value": 0}]}
    yield _panel(
        f"{one.name}: budget left",
        {"{{part}}": f"slo:budget_left:ratio{named}"},
        description=f"{one}, over {one.period}",
        unit="percentunit",
        position={"x": 0, "y": y, "w": HALF, "h": HEIGHT},
        thresholds=red_below_zero,
    )
    budget = f"{1 - one.target:.9g}"
    yield _panel(
        f"{one.name}: burn (1 spends the budget in {one.period})",
        {f"{window} {{{{part}}}}": f"slo:error_ratio:rate{window}{named} / {budget}" for window in ("5m", "1h", "6h")},
        description="How many budgets a period the bad share of the window would spend.",
        unit="short",
        position={"x": HALF, "y": y, "w": HALF, "h": HEIGHT},
        thresholds={"mode": "absolute", "steps": [{"color": "green", "value": None}, {"color": "red", "value": 1}]},
    )


def _panel(
    title: str,
    queries: dict[str, str],
    *,
    description: str,
    unit: str,
    position: dict[str, int],
    thresholds: dict[str, Any],
) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "title": title,
        "type": "timeseries",
        "description": description,
        "datasource": source,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": unit, "thresholds": thresholds}, "overrides": []},
        "targets": [
            {"refId": letter, "datasource": source, "expr": expression, "legendFormat": legend}
            for letter, (legend, expression) in zip("ABC", queries.items(), strict=False)
        ],
    }
