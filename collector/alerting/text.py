"""The words of a message, for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Alert = Mapping[str, Any]


def headline(alert: Alert) -> str:
    """Return one line: state, severity, what it is."""
    state = {"resolved": "RESOLVED", "repeat": "STILL FIRING"}.get(alert["transition"], "FIRING")
    return f"[{state}] {alert['severity']}: {alert['summary']}"


def message_text(alerts: Sequence[Alert]) -> str:
    """Return what people read of one message."""
    return "\n\n".join("\n".join((headline(alert), *alert["text"].splitlines())) for alert in alerts)


def body(alert: Alert) -> str:
    """Return what people read below the headline; what is not known is left out."""
    return "\n".join(_lines(alert))


def _lines(alert: Alert) -> Iterator[str]:
    facts = alert["facts"]
    if facts.get("goal"):
        yield f"Promise: {facts['goal']} over {facts['period']}."
    if facts.get("budget"):
        yield f"Budget: {facts['budget']}."
    if facts.get("requests"):
        whose = [_counted(facts[f"{name}s"], name) for name in ("tenant", "conversation") if facts.get(f"{name}s")]
        who = f" of {', '.join(whose)}" if whose else ""
        worst = [f"{name} {facts[f'worst_{name}']}" for name in ("stage", "tenant") if facts.get(f"worst_{name}")]
        said = f"; worst {', '.join(worst)}" if worst else ""
        yield f"Hit since {facts['since']}: {_counted(facts['requests'], 'request')}{who}{said}."
    if facts.get("evidence"):
        yield f"Figures: {', '.join(f'{name} {_short(value)}' for name, value in facts['evidence'].items())}."
    for name, label in (("owner", "Owner"), ("runbook", "Runbook"), ("degrade_first", "Do without first")):
        if alert.get(name):
            yield f"{label}: {alert[name]}"
    if alert["traces"]:
        yield f"Traces: {' '.join(alert['traces'])}"
    if alert["sql"]:
        yield f"SQL: {alert['sql']}"
    if alert["closed"]:
        yield f"Lasted from {alert['opened']} to {alert['closed']}."


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
