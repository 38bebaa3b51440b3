"""The short form of an objective: one mapping with a line a limit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from . import words
from .model import MEASURES, PARTS, Limit, Objective, is_measure
from .tree import Tree, documents

PRESETS: Final = Path(__file__).with_name("presets")
DETAILS: Final = ("owner", "runbook", "degrade_first", "notify")
SETTINGS: Final = ("name", "preset", "where", "service", "per", "window", "slice", "degraded", "for", *DETAILS)
#: Objectives of a mapping beside its limits on measures.
SHARES: Final = ("goodput", "success")
KEYS: Final = (*SETTINGS, *SHARES, *MEASURES)
#: budgeting by slices: `slice: 5m at 95%`
AT: Final = " at "


@dataclass(frozen=True, slots=True)
class _Target:
    target: float
    limits: tuple[Limit, ...] = ()


def read(tree: Tree, *, name: str) -> Iterator[Objective]:
    """Yield the objectives of one mapping, `<name>.<measure>` each. Raises ObjectivesError."""
    for key, value in tree.mapping().items():
        if key not in KEYS and not is_measure(key):
            value.fail(f"unknown key {key!r}: expected one of {', '.join(KEYS)}, or stages joined by +")
    common = _common(tree, name=name)
    targets = dict(_preset(tree)) | dict(_targets(tree))
    if not targets:
        tree.fail(f"no limit is set: expected one of {', '.join((*MEASURES, *SHARES))}, as in `total: p95 < 2.5s`")
    lines = tree.mapping()
    for key, goal in targets.items():
        place = lines[key].place if key in lines else tree.place
        yield replace(common, name=f"{common.name}.{key}", target=goal.target, limits=goal.limits, place=place)


def _targets(tree: Tree) -> Iterator[tuple[str, _Target]]:
    for key, value in tree.mapping().items():
        if is_measure(key):
            target, limit = words.threshold(value, key)
            yield key, _Target(target, (limit,))
        elif key == "goodput":
            yield key, _Target(*words.goodput(value))
        elif key == "success":
            yield key, _Target(words.share(value))


def _common(tree: Tree, *, name: str) -> Objective:
    found = Objective(name=name, target=0.0)
    given = {key: value for key, value in tree.mapping().items() if key in SETTINGS and value.value is not None}
    for key, value in given.items():
        if key in READ:
            found = READ[key](found, value)
    return found


def _service(found: Objective, value: Tree) -> Objective:
    quoted = value.text().replace("'", "''")
    return replace(found, where=" and ".join(filter(None, (found.where, f"service = '{quoted}'"))))


def _where(found: Objective, value: Tree) -> Objective:
    return replace(found, where=" and ".join(filter(None, (found.where, f"({words.condition(value)})"))))


def _slice(found: Objective, value: Tree) -> Objective:
    length, at, share = value.text().partition(AT)
    if not at:
        value.fail(f"{value.text()!r}: expected as in `slice: 5m at 95%`: how long one is, and when it is good")
    tree = replace(value, value=length)
    slice_s = words.seconds(tree)
    if slice_s > 86_400 or 86_400 % slice_s:
        tree.fail(f"{length!r} does not divide a day: expected as in 1m, 5m, 15m, 1h")
    return replace(found, method="timeslices", slice_s=slice_s, slice_target=words.share(replace(value, value=share)))


def _notify(found: Objective, value: Tree) -> Objective:
    return replace(found, notify=tuple(item.text() for item in value.items()))


#: Setting -> how it changes the objective.
READ: Final[dict[str, Callable[[Objective, Tree], Objective]]] = {
    "name": lambda found, value: replace(found, name=_name(value)),
    "where": _where,
    "service": _service,
    "per": lambda found, value: replace(found, per=value.one_of(PARTS)),
    "window": lambda found, value: replace(found, period=words.period(value)),
    "slice": _slice,
    "degraded": lambda found, value: replace(found, degraded_good=value.one_of(("good", "bad")) == "good"),
    "notify": _notify,
    "for": lambda found, value: replace(found, for_s=words.seconds(value)),
    "owner": lambda found, value: replace(found, owner=value.text()),
    "runbook": lambda found, value: replace(found, runbook=value.text()),
    "degrade_first": lambda found, value: replace(found, degrade_first=value.text()),
}


def _name(tree: Tree) -> str:
    name = tree.text()
    if not name or len(name) > 100 or any(mark.isspace() or mark in "|.'\"" for mark in name):
        tree.fail(f"{name!r} is no name: expected letters, digits, - and _")
    return name


def _preset(tree: Tree) -> Iterator[tuple[str, _Target]]:
    chosen = tree.get("preset")
    if chosen is not None:
        yield from presets()[chosen.one_of(tuple(presets()))].items()


@cache
def presets() -> dict[str, dict[str, _Target]]:
    """Return the presets: name -> measure -> goal."""
    files = sorted(PRESETS.glob("*.yaml"))
    return {
        name: dict(_targets(tree))
        for file in files
        for document in documents(file)
        for name, tree in document.mapping().items()
    }
