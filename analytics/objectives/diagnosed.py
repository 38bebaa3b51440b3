"""What a file of objectives says of diagnoses: which are alerts, how grave, whose, and by which thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ..diagnoses import rules
from .tree import Tree

DETAILS: Final = ("owner", "runbook", "degrade_first")
#: `off` is a boolean to YAML.
SEVERITIES: Final = ("page", "ticket", "off", "False")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosed:
    """How findings of one rule become alerts: `severity` is page, ticket or off, `settings` are its thresholds."""

    severity: str = "ticket"
    details: Mapping[str, str] = field(default_factory=dict)
    notify: tuple[str, ...] = ()
    settings: Mapping[str, float] = field(default_factory=dict)


def read(tree: Tree) -> dict[str, Diagnosed]:
    """Return what a section says, by rule. Raises ObjectivesError."""
    found = {}
    for rule, value in tree.mapping().items():
        if rule not in rules():
            value.fail(f"{rule!r} is no diagnosis: expected one of {', '.join(rules())}")
        found[rule] = _diagnosed(value)
    return found


def notified(tree: Tree) -> list[Tree]:
    """Return the names of channels that a section mentions."""
    wanted = [value.get("notify") for value in (tree.value or {}).values() if isinstance(value.value, dict)]
    return [one for names in wanted if names for one in names.items()]


def _diagnosed(tree: Tree) -> Diagnosed:
    if not isinstance(tree.value, dict):
        return Diagnosed(severity=_severity(tree))
    given = {key: value for key, value in tree.mapping().items() if value.value is not None}
    notify, severity = given.pop("notify", None), given.pop("severity", None)
    details: dict[str, str] = {name: given.pop(name).text() for name in DETAILS if name in given}
    return Diagnosed(
        severity=_severity(severity) if severity else "ticket",
        details=details,
        notify=tuple(one.text() for one in notify.items()) if notify else (),
        settings={name: value.number(low=-1e12, high=1e12) for name, value in given.items()},
    )


def _severity(tree: Tree) -> str:
    said = tree.one_of(SEVERITIES)
    return "off" if said == "False" else said
